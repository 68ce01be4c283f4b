"""Image classification alone needs timm: without it, or with one too old, one line says so."""

import importlib
import sys
import types
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, error_line, run_ok
from util.errors import UserError

LEFT_OUT = "timm is missing: of tests/classification only those that need none are run"
MADE_WITH_TIMM = "this environment was made from requirements-dev.txt, which has timm: install it"
OTHERS = ("benchmarks", "build", "classification", "data", "output", "tests")
# Runs as a command of its own, in a folder that is on no path of imports.
WITHOUT_TIMM = """
import importlib.util, os, sys
import pytest

root, *modules = sys.argv[1:]
sys.path[0] = root
sys.modules["timm"] = None
os.environ["TRITON_INTERPRET"] = "1"
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        other = error.name.partition(".")[0]
        # Other packages that tests need may be missing, too, where timm is.
        if other == "timm" or importlib.util.find_spec(other) is not None:
            raise
    except pytest.skip.Exception:
        pass
options = ["--collect-only", "--quiet", "-p", "no:cacheprovider", "--rootdir", root]
code = pytest.main([*options, root + "/tests/classification"])
assert not any(name.partition(".")[0] == "classification" for name in sys.modules)
sys.exit(code)
"""


def has_timm(prefix: Path = Path(sys.prefix)) -> bool:
    """Say whether timm is there; the test fails if it should be.

    Args:
        prefix: of Python's environment. `make` notes in it that all that tests need is installed.
    """
    try:
        importlib.import_module("timm")
    except ImportError:
        assert not (prefix / "installed").exists(), MADE_WITH_TIMM
        return False
    return True


def test_the_other_tests_of_classification_are_run():
    if not has_timm():
        pytest.skip(LEFT_OUT)


def test_only_an_environment_of_the_detector_goes_without(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert not has_timm(tmp_path)
    (tmp_path / "installed").touch()
    with pytest.raises(AssertionError, match=r"requirements-dev\.txt, which has timm"):
        has_timm(tmp_path)


def import_classification(monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == "classification"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.import_module("classification")


def test_without_timm(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"classification needs timm .*: pip install 'timm>=1\.0"):
        import_classification(monkeypatch)


def test_with_an_old_one(monkeypatch):
    old = types.ModuleType("timm")
    old.__version__ = "0.4.12"
    monkeypatch.setitem(sys.modules, "timm", old)
    with pytest.raises(UserError, match=r"a newer timm than 0\.4\.12: pip install"):
        import_classification(monkeypatch)


def test_the_detector_and_its_tests_need_none(tmp_path):
    """Where timm is missing, each module of the detector and each of its tests is imported."""
    parts = [part for part in ROOT.iterdir() if part.name[0] != "." and part.stem not in OTHERS]
    files = [file for part in parts for file in (part.rglob("*.py") if part.is_dir() else [part])]
    files += [
        file for file in ROOT.glob("tests/**/test_*.py") if "classification" not in file.parts
    ]
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sorted(files)
        if file.suffix == ".py" and file.stem not in ("__main__", "setup")
    ]
    assert {"main", "hubconf", "tools.convert", "tests.models.test_detr"} <= set(modules)
    (tmp_path / "alone.py").write_text(WITHOUT_TIMM)
    collected = run_ok(tmp_path / "alone.py", ROOT, *modules, cwd=tmp_path).stdout
    names = {line.partition("::")[0] for line in collected.splitlines() if "::" in line}
    assert names == {"tests/classification/test_needs_timm.py"}


@pytest.mark.parametrize(
    "command",
    ["tools/predict.py LICENSE LICENSE", "main.py --data-path .",
     *(pytest.param(c, marks=pytest.mark.slow)
       for c in ("tools/export_onnx.py LICENSE", "tools/show_rpe.py LICENSE LICENSE",
                 "tools/error_page.py LICENSE .", "run_with_submitit.py --data-path ."))],
)  # fmt: skip
def test_commands_say_it_in_one_line(tmp_path, command):
    (tmp_path / "timm.py").write_text("raise ImportError('no timm here')")
    found = {"PYTHONPATH": str(tmp_path)}
    line = error_line(*f"classification/{command}".split(), env=found)
    assert line.startswith("error: classification needs timm (no timm here): pip install")
