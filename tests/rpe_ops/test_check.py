"""`python -m rpe_ops --check`: every kernel is compared, and a wrong one is told."""

import sys

import pytest
import torch

from rpe_ops import __main__ as command
from rpe_ops import check
from rpe_ops.functions import DTYPES
from rpe_ops.library import LIBRARY
from tests.helpers.commands import run, run_ok

CPU = torch.device("cpu")


@pytest.mark.parametrize("library", ["", "off"])
def test_every_kernel_and_dtype_has_a_line(library):
    lines = run_ok("-m", "rpe_ops", "--check", env={"RPE_OPS_LIBRARY": library}).stdout.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("cpu"))
    status, checked, end = lines[:begin], lines[begin:-1], lines[-1]
    found = [line for line in checked if not line.startswith("attention on ")]
    assert len(checked) > len(found)
    assert status[0].startswith("rpe_ops ") and end == "all ok"
    kernels = {line.split()[0] for line in found}
    if LIBRARY.path is not None and not library:
        assert kernels >= {f"cpu:{name}" for name in torch.ops.rpe_ops.all_cpu_kernels()}
    elif not torch.cuda.is_available():
        assert kernels == {"cpu"}
    assert len(found) == len(kernels) * len(DTYPES) * len(check.OPERATORS)
    assert all(line.endswith("  ok") for line in found), found


def scaled(name):
    """KERNELS with one operator whose results are off by a thousandth."""
    right = getattr(check.KERNELS, name)
    return check.KERNELS._replace(**{name: lambda *args: right(*args) * 1.001})


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("lookup", {"rpe_index", "gradient of rpe_index"}),
        ("index_sum", {"rpe_index_sum", "gradient of rpe_index_sum"}),
        ("weighted_sum", {"rpe_weighted_sum", "gradients of rpe_weighted_sum"}),
    ],
)
def test_a_wrong_kernel_fails(name, wrong, monkeypatch):
    monkeypatch.setattr(check, "KERNELS", scaled(name))
    results = [r for r in check.check_device(CPU, "cpu") if r.dtype == torch.float32]
    assert {r.operator for r in results if not r.ok} == wrong
    assert all(str(r).endswith("FAILED") == (r.operator in wrong) for r in results)


def test_a_wrong_id_fails(monkeypatch):
    """A key that looks at the next bucket, in the odd number of keys alone."""
    right = check.KERNELS.lookup

    def shifted(table, index):
        index = index.clone()
        if index.shape[1] % 2:
            index[-1, -1] = (index[-1, -1] + 1) % table.shape[3]
        return right(table, index)

    monkeypatch.setattr(check, "KERNELS", check.KERNELS._replace(lookup=shifted))
    found = [r for r in check.check_device(CPU, "cpu") if r.operator == "rpe_index"]
    assert len(found) == 4 and not any(r.ok for r in found)


@pytest.mark.parametrize("result", ["nan", "error"])
def test_a_failure_is_a_line_and_the_exit_code(result, monkeypatch, capsys):
    def function(table, index):
        if result == "error":
            raise RuntimeError("no kernel image is available\nfor execution on the device")
        return torch.full((*table.shape[:3], index.shape[1]), torch.nan, dtype=table.dtype)

    monkeypatch.setattr(check, "KERNELS", check.KERNELS._replace(lookup=function))
    monkeypatch.setattr(sys, "argv", ["rpe_ops", "--check"])
    with pytest.raises(SystemExit) as stop:
        command.main()
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.endswith("FAILED")]
    assert stop.value.code == 1 and len(failed) >= 4 and lines[-1].endswith(" failed")
    said = "nan" if result == "nan" else "RuntimeError: no kernel image is available"
    assert said in failed[0] and "for execution" not in failed[0]


def test_without_the_option_nothing_is_compared():
    assert "difference" not in run("-m", "rpe_ops").stdout
