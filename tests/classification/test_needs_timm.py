"""Without timm, or with one that is too old, one line says how to install it."""

import importlib
import sys

import pytest
import timm

from tests.helpers.commands import error_line
from util.errors import UserError


def import_classification(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "classification"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("classification")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"classification needs timm .*: pip install 'timm>=1\.0"):
        import_classification(monkeypatch)


def test_with_an_old_one(monkeypatch):
    monkeypatch.setattr(timm, "__version__", "0.4.12")
    with pytest.raises(UserError, match=r"a newer timm than 0\.4\.12: pip install"):
        import_classification(monkeypatch)


@pytest.mark.parametrize(
    "command",
    ["tools/predict", *(pytest.param(c, marks=pytest.mark.slow)
                        for c in ("tools/export_onnx", "tools/show_rpe", "tools/error_page",
                                  "run_with_submitit"))],
)  # fmt: skip
def test_commands_say_it_in_one_line(tmp_path, command):
    (tmp_path / "timm.py").write_text("raise ImportError('no timm here')")
    found = {"PYTHONPATH": str(tmp_path)}
    line = error_line(f"classification/{command}.py", "c.pth", "x.jpg", env=found)
    assert line.startswith("error: classification needs timm (no timm here): pip install")
