"""The sets of CPU kernels: compiled with sanitizers, and chosen by what the processor has."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from rpe_ops import rpe_index_sum
from tests.helpers.commands import ROOT
from tests.rpe_ops.operands import inputs, needs_library

TORCH_HEADERS = Path(torch.__file__).parent / "include"
CPUINFO = Path("/proc/cpuinfo")
FLAGS = {
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx2": {"avx2", "f16c"},
    "portable": set(),
}


def processor_flags() -> set[str]:
    """What Linux says that the processor has."""
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
def test_cpu_kernels_equal_loops_and_stay_inside(tmp_path):
    program = tmp_path / "cpu_on_host"
    subprocess.run(
        ["c++", "-std=c++20", "-O1", "-g", "-fsanitize=address,undefined",
         "-fno-sanitize-recover=all", "-I", TORCH_HEADERS, "-o", program,
         ROOT / "tests/rpe_ops/cpu_on_host.cpp",
         *(ROOT / "rpe_ops/csrc/cpu").glob("avx*.cpp")],
        check=True,
    )  # fmt: skip
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("ok: portable"), result.stdout


@needs_library
def test_the_fastest_kernels_that_the_processor_can_run_are_chosen():
    ops = torch.ops.rpe_ops
    names = ops.all_cpu_kernels()
    if platform.machine() == "x86_64" and CPUINFO.exists():
        assert names == [name for name, flags in FLAGS.items() if flags <= processor_flags()]
    assert names[-1] == "portable"
    for name in names:
        ops.use_cpu_kernels(name)
        assert ops.cpu_kernels() == name
    for name in FLAGS.keys() - set(names):
        with pytest.raises(ValueError, match=f"this processor cannot run {name}"):
            ops.use_cpu_kernels(name)
    ops.use_cpu_kernels("auto")
    assert ops.cpu_kernels() == names[0]


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_avx2_and_portable_kernels_give_the_same_sums(dtype):
    ops = torch.ops.rpe_ops
    if "avx2" not in ops.all_cpu_kernels():
        pytest.skip("this processor has no AVX2")
    _, x, index = inputs(2, 5, 9, 203, 19, dtype)
    try:
        sums = []
        for name in ("avx2", "portable"):
            ops.use_cpu_kernels(name)
            sums.append(rpe_index_sum(x, index, 19))
    finally:
        ops.use_cpu_kernels("auto")
    assert torch.equal(*sums)
