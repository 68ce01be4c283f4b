"""Which GPUs Triton's kernels are used on: not where the library serves, nor where they fail."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rpe_ops import check, functions, library, status
from rpe_ops import triton_lookup as ours
from rpe_ops.library import Library

CPU = torch.device("cpu")
pytestmark = [
    pytest.mark.skipif(ours.NO_TRITON is not None, reason=str(ours.NO_TRITON)),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter stands in for GPUs"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]
A100, H100, V100 = range(3)
NAMES = ["A100", "H100", "V100"]
CAPABILITIES = [(8, 0), (9, 0), (7, 0)]
BUILD = {"torch": "2.14.1", "cuda": "13.0", "architectures": "sm_80/sm_86", "compiler": "12"}
WITH_CUDA = Library(Path("_C.so"), BUILD, frozenset({"cpu", "cuda"}))
OFF = Library(problems=("RPE_OPS_LIBRARY=off",))


@pytest.fixture
def gpus(monkeypatch):
    """A library for Ampere and three GPUs; returns a list of (device, dtype) that were tried.

    What a trial computes is computed on the CPU.
    """
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: NAMES[index])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: CAPABILITIES[index])
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(library, "_warned", set())
    monkeypatch.setattr(ours, "_found", {})
    for name, small in (("BUCKETS", 5), ("QUERIES", 1), ("KEYS", 20)):
        monkeypatch.setattr(ours, name, small)
    tried, compute = [], ours._wrong_results

    def on_the_cpu(device, dtype):
        tried.append((device, dtype))
        return compute(CPU, dtype)

    monkeypatch.setattr(ours, "_wrong_results", on_the_cpu)
    use(monkeypatch, WITH_CUDA)
    yield tried
    library._has_code_for.cache_clear()


def use(monkeypatch, built: Library) -> None:
    for module in (library, functions, status):
        monkeypatch.setattr(module, "LIBRARY", built)
    library._has_code_for.cache_clear()


def kernels_for(index: int, dtype: torch.dtype = torch.float32) -> str:
    tensor = SimpleNamespace(device=torch.device("cuda", index), dtype=dtype)
    return functions._kernels_for(tensor)


def warned(action) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # NumPy interprets the kernels; garbage of other tests may be collected.
        warnings.filterwarnings("ignore", ".* encountered in", RuntimeWarning)
        warnings.simplefilter("ignore", ResourceWarning)
        action()
    return [str(warning.message) for warning in caught]


# ---- the order ----


def test_the_library_is_first_then_triton_then_pytorch(gpus):
    def action():
        for _ in range(2):
            assert [kernels_for(index) for index in range(3)] == ["library", "triton", "pytorch"]

    (warning,) = warned(action)
    assert gpus == [(torch.device("cuda", H100), torch.float32)]  # once, and on no other GPU
    assert "PyTorch's own operators on cuda:2" in warning
    assert "compiled for sm_80, sm_86" in warning and warning.count("V100") == 2
    assert "; Triton needs compute capability 8.0, V100 has 7.0" in warning


def test_without_a_library_every_gpu_that_can_uses_triton(gpus, monkeypatch):
    use(monkeypatch, OFF)
    said = warned(lambda: [kernels_for(index) for index in (A100, H100)])
    assert said == [] and len(gpus) == 2
    (said,) = warned(lambda: [kernels_for(V100) for _ in range(2)])
    assert "operators on cuda, which" in said and "RPE_OPS_LIBRARY=off; Triton needs" in said


@pytest.mark.parametrize(
    ("version", "reason"),
    [("3.2.0", "Triton 3.2.0 is older than 3.3"), ("2.9+git1", "older"), ("3.3.0", None),
     ("3.10.1", None), ("4.0", None)],
)  # fmt: skip
def test_an_old_triton_is_not_tried(gpus, monkeypatch, version, reason):
    monkeypatch.setattr("triton.__version__", version)
    wanted = "triton" if reason is None else "pytorch"
    assert len(warned(lambda: kernels_for(H100))) == (reason is not None)
    assert kernels_for(H100) == wanted
    assert len(gpus) == (reason is None)
    assert (reason or "None") in str(ours.why_not_device(torch.device("cuda", H100)))


def test_other_reasons(gpus, monkeypatch):
    for change, reason in (
        (lambda: monkeypatch.setattr(torch.cuda, "is_available", bool), "not on cuda:1"),
        (lambda: monkeypatch.setattr(ours, "NO_TRITON", "no such module"), "no such module"),
        (lambda: monkeypatch.setenv("RPE_OPS_TRITON", "off"), "RPE_OPS_TRITON=off"),
    ):
        change()
        assert reason in functions.why_not_triton(H100, torch.float32)
    assert gpus == []


# ---- the trial ----


def wrong_sum(change):
    right = ours.bucket_sum
    return lambda *args: change(right(*args))


FAULTS = {
    "lookup": ("lookup", lambda table, index: table[..., : index.shape[1]], "rpe_index differs"),
    "scaled": ("bucket_sum", wrong_sum(lambda sums: sums * 1.001), "rpe_index_sum differs"),
    "nan": ("bucket_sum", wrong_sum(lambda sums: sums + torch.nan), "rpe_index_sum differs"),
    "infinity everywhere": (
        "bucket_sum", wrong_sum(lambda sums: sums.masked_fill(sums.isinf(), 0)), "differs"
    ),
    "error": ("lookup", lambda *_: 1 / 0, "ZeroDivisionError: division by zero"),
    "no compiler": (
        "lookup", lambda *_: torch._check(False, lambda: "\n no compiler\nmore"), "no compiler$"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_kernels_that_fail_are_tried_once_and_not_used(gpus, monkeypatch, name):
    attribute, function, said = FAULTS[name]
    monkeypatch.setattr(ours, attribute, function)

    def action():
        for _ in range(3):
            assert kernels_for(H100) == "pytorch"

    (line,) = warned(action)
    assert len(gpus) == 1 and "\n" not in line and "the trial of Triton" in line
    assert re.search(said, functions.why_not_triton(H100, torch.float32))


@pytest.mark.parametrize("dtype", functions.DTYPES)
def test_each_dtype_is_tried(gpus, dtype):
    with torch.inference_mode(), torch.autocast("cpu"), torch.device("meta"), FakeTensorMode():
        assert kernels_for(H100, dtype) == "triton"
    assert gpus == [(torch.device("cuda", H100), dtype)]


def test_a_cuda_graph_has_no_trial_in_it(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    (said,) = warned(lambda: kernels_for(H100))
    assert gpus == [] and "not tried before this CUDA graph" in said
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert kernels_for(H100) == "triton"
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert kernels_for(H100) == "triton"


def test_the_choice_compiles_into_a_graph(gpus, monkeypatch):
    """The trial takes place when the graph is made, and is not part of it."""
    monkeypatch.setattr(ours, "why_not_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # or torch.compile looks at them

    @torch.compile(fullgraph=True, backend="aot_eager")
    def function(x):
        return x + 1 if functions.why_not_triton(H100, x.dtype) is None else x + 2

    assert function(torch.zeros(1)).item() == 1
    assert len(gpus) == 1


# ---- what is said ----


def test_status_says_which_is_active_and_why(gpus, monkeypatch):
    a100, h100, v100 = status.gpus()
    assert a100 == "cuda:0   A100: compiled kernels"
    assert h100.startswith("cuda:1   Triton's kernels: the library was compiled for sm_80, sm_86")
    assert v100.startswith("cuda:2   PyTorch's own operators: the library") and "Triton" in v100
    use(monkeypatch, OFF)
    lines = status.status().splitlines()
    assert "CUDA     no kernels in a library: RPE_OPS_LIBRARY=off" in lines
    assert "cuda:0   Triton's kernels: RPE_OPS_LIBRARY=off" in lines
    ours._found[torch.device("cuda", H100), torch.float64] = "no float64"
    assert status.gpus()[1] == (
        "cuda:1   Triton's kernels and PyTorch's own operators: RPE_OPS_LIBRARY=off; no float64"
    )


def test_the_check_compares_triton_where_the_library_is_in_use(gpus, monkeypatch):
    asked = []

    def recorded(device, where, operators=None):
        asked.append((where, operators and operators.lookup))
        return iter(())

    monkeypatch.setattr(check, "check_device", recorded)
    monkeypatch.setattr(check, "_cpu_kernels", list)
    monkeypatch.setattr(check, "LIBRARY", OFF)
    monkeypatch.setattr(torch.cuda, "device", lambda device: warnings.catch_warnings())
    list(check.check_all())
    names = ["cuda:0", "cuda:0:triton", "cuda:1", "cuda:2"]
    assert asked == [(name, ours.lookup if "triton" in name else None) for name in names]


def test_the_check_finds_right_and_wrong_kernels(monkeypatch):
    monkeypatch.setattr(check, "KEYS", (33,))
    monkeypatch.setattr(check, "BUCKETS", 5)
    monkeypatch.setattr(check, "QUERIES", 2)
    monkeypatch.setattr(check, "DTYPES", (torch.float32,))
    monkeypatch.setattr(ours, "why_not_device", lambda device: None)
    results = list(check._check_triton(CPU))
    assert len(results) == len(check.OPERATORS) and all(result.ok for result in results)
    assert {result.where for result in results} == {"cpu:triton"}
    monkeypatch.setattr(ours, "bucket_sum", wrong_sum(lambda sums: sums * 1.001))
    assert not all(result.ok for result in check._check_triton(CPU))
