"""The CUDA source: its kernels run on the CPU, and compile without spills."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rpe_ops import toolkit
from rpe_ops.library import build_info
from tests.helpers.commands import ROOT, run_ok

TORCH_HEADERS = Path(torch.__file__).parent / "include"
TOOLKIT = toolkit.choose_toolkit(torch.version.cuda or "0", toolkit.find_toolkits())
needs_toolkit = pytest.mark.skipif(isinstance(TOOLKIT, str), reason=str(TOOLKIT))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler")
@pytest.mark.parametrize(
    "sanitizer", ["address,undefined", pytest.param("thread", marks=pytest.mark.nightly)]
)
def test_cuda_kernels_on_the_cpu(tmp_path, sanitizer):
    program = tmp_path / "cuda_on_host"
    subprocess.run(
        ["c++", "-std=c++20", "-O1", "-g", f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all",
         "-Wno-unknown-pragmas", "-I", TORCH_HEADERS, "-o", program,
         ROOT / "tests/rpe_ops/cuda_on_host.cpp"],
        check=True,
    )  # fmt: skip
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0 and result.stdout == "ok\n", result.stderr


@pytest.mark.slow
@needs_toolkit
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "newest"])
def test_kernels_keep_everything_in_registers(tmp_path, architecture):
    """ptxas says for each kernel what it spills to memory."""
    if architecture == "newest":
        architecture = "sm_{}{}".format(*toolkit.known_capabilities(TOOLKIT)[-1])
    headers = [TORCH_HEADERS, *(f for p in sys.path for f in Path(p).glob("nvidia/*/include"))]
    result = subprocess.run(
        [TOOLKIT.nvcc, "-cubin", f"-arch={architecture}", "-Xptxas", "-v", "-O3", "-std=c++20",
         "--expt-relaxed-constexpr", *(f"-I{folder}" for folder in headers),
         "-o", tmp_path / "kernels.cubin", ROOT / "rpe_ops/csrc/cuda/launches.cu"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    spilled = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stderr)
    assert len(spilled) == 10  # kernels: sums of 4 dtypes, lookups of 3 sizes in two ways
    assert set(spilled) == {("0", "0")}, result.stderr


@pytest.mark.nightly  # `make ops` compiles it, too
@needs_toolkit
def test_cuda_source_compiles(tmp_path):
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", tmp_path, "--build-temp",
         tmp_path / "objects"],
        cwd=ROOT / "rpe_ops", capture_output=True, text=True,
        env={**os.environ, "RPE_OPS_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0;9.0+PTX"},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (library,) = (tmp_path / "rpe_ops").glob("_C*.so")
    assert build_info(library)["cuda"] == TOOLKIT.version
    architectures = build_info(library)["architectures"].split("/")
    assert set(architectures) == {"sm_80", "sm_90", "compute_90"}
    assert b"sm_80" in library.read_bytes() and b"sm_90" in library.read_bytes()
    said = run_ok("-m", "rpe_ops", env={"RPE_OPS_LIBRARY": str(library)}).stdout
    assert str(library) in said
    assert f"compiled kernels, toolkit {TOOLKIT.version}, for {', '.join(architectures)}" in said
