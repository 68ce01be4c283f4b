"""Budgets of Triton's compiled lookups, for GPUs that need not be there.

The interpreter of the other tests takes much that the compiler does not, and says nothing of speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rpe_ops import triton_lookup
from tests.helpers.commands import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(triton_lookup.NO_TRITON is not None, reason=str(triton_lookup.NO_TRITON)),
]
OLDEST = "OLDEST_TRITON_PYTHON"  # the interpreter of an environment with the oldest Triton
SCRIPT = ROOT / "benchmarks/instructions/lookup_instructions.py"
# Instructions of a thread for each value, with 81 buckets.
LOOKUP, SUM_OF_16_BITS, SUM_OF_32_BITS = 7, 17, 40
SHARED_BYTES = 48 * 1024  # what every GPU gives a program without being asked


def compiled(folder: Path, *options: str, python: str = sys.executable) -> list[dict]:
    """Return what lookup_instructions.py finds, after the checks of every kernel."""
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder / "cache")}
    result = subprocess.run(
        [python, SCRIPT, *options, "--json", folder / "found.json"],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    kernels = json.loads((folder / "found.json").read_text())["results"]
    for kernel in kernels:
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        assert not kernel["tf32"] and not kernel["atomics"], kernel
    return kernels


def check_budgets(kernels: list[dict], spills: int) -> None:
    for kernel in kernels:
        count = kernel["instructions_a_value"]
        if kernel["kernel"] == "lookup":
            assert 2 < count <= LOOKUP, kernel  # a load and a store, or something is not counted
        elif kernel["dtype"] == "fp32":
            assert 10 < count <= SUM_OF_32_BITS, kernel
        else:
            assert 6 < count <= SUM_OF_16_BITS, kernel
        assert kernel["spills"] <= spills, kernel


def test_kernels_keep_their_budgets(tmp_path):
    kernels = compiled(tmp_path, "--arch", "90", "--rows", "64")
    names = [(kernel["dtype"], kernel["kernel"]) for kernel in kernels]
    assert names == [(dtype, name) for dtype in ("bf16", "fp32") for name in ("lookup", "sum")]
    check_budgets(kernels, spills=0)


@pytest.mark.nightly
def test_kernels_compile_for_all_gpus(tmp_path):
    for keys in ("1050", "1056"):
        options = ("--dtype", "bf16", "fp16", "fp32", "--rows", "64", "--keys", keys)
        kernels = compiled(tmp_path, *options)
        assert len(kernels) == 3 * 3 * 2
        check_budgets(kernels, spills=64)


SIZES = ("--dtype", "bf16", "fp16", "fp32", "fp64", "--buckets", "300", "--rows", "3")


@pytest.mark.nightly
def test_every_dtype_and_size_compiles(tmp_path):
    for keys in ("7", "16"):
        assert len(compiled(tmp_path, *SIZES, "--keys", keys)) == 3 * 4 * 2


@pytest.mark.nightly
@pytest.mark.skipif(OLDEST not in os.environ, reason=f"{OLDEST} names no Python with old Triton")
def test_kernels_compile_with_the_oldest_triton(tmp_path):
    compiled(tmp_path, *SIZES, "--keys", "16", python=os.environ[OLDEST])
