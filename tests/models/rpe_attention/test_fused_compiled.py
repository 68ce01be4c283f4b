"""Budgets of the compiled fused kernels, for GPUs that need not be there.

The interpreter of the other tests takes much that the compiler does not, and says nothing of speed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from tests.models.rpe_attention.fused_cases import needs_triton

pytestmark = needs_triton
SCRIPT = Path(__file__).parent / "compile_kernels.py"
OLDEST = "OLDEST_TRITON_PYTHON"  # the interpreter of an environment with the oldest Triton
# Issue slots a pair of a query and a key; see docs/fused_kernels.md.
FORWARD, BACKWARD = 45, 105
SHARED_BYTES = 48 * 1024  # what every GPU gives a program without being asked


def compiled(cases: str, cache: Path, python: str = sys.executable) -> list[dict]:
    path = f"{ROOT}:{ROOT / 'benchmarks/instructions'}"
    env = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    env["PYTHONPATH"] = path
    result = subprocess.run(
        [python, SCRIPT, cases], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def check(kernels: list[dict]) -> None:
    for kernel in kernels:
        assert kernel["repeated_work"] == 1, kernel
        assert kernel["shared_bytes"] <= SHARED_BYTES, kernel
        assert not kernel["tf32"], kernel


def check_slots(kernels: list[dict]) -> None:
    forward, *backward = (kernel["slots_a_pair"] for kernel in kernels)
    # Below the fewest that products and softmax need, something was not counted.
    assert 15 < forward <= FORWARD and 40 < sum(backward) <= BACKWARD, kernels


@pytest.mark.slow
def test_kernels_keep_their_budgets(tmp_path):
    """Of the detector, with a class token, and from a map of twice the height and width."""
    kernels = compiled("few", tmp_path)
    assert [kernel["kernel"] for kernel in kernels] == 3 * [
        "forward", "backward_queries", "backward_keys"
    ]  # fmt: skip
    check(kernels)
    for first in (0, 3, 6):
        check_slots(kernels[first : first + 3])
    assert not any(kernel["spills"] for kernel in kernels[:6]), kernels
    assert max(kernel["spills"] for kernel in kernels[6:]) <= 8, kernels


@pytest.mark.nightly
def test_kernels_compile_for_all_gpus(tmp_path):
    kernels = compiled("all", tmp_path)
    assert len(kernels) == 3 * 13 * 3  # GPUs, cases, kernels
    check(kernels)
    for first in range(0, len(kernels), 39):
        for case in range(4):
            check_slots(kernels[first + 3 * case : first + 3 * case + 3])
    # Loads and stores of registers, where heads are large or in float32.
    assert max(kernel["spills"] for kernel in kernels) <= 200, kernels


@pytest.mark.nightly
@pytest.mark.skipif(OLDEST not in os.environ, reason=f"{OLDEST} names no Python with old Triton")
def test_kernels_compile_with_the_oldest_triton(tmp_path):
    kernels = compiled("all", tmp_path, os.environ[OLDEST])
    assert len(kernels) == 3 * 13 * 3
    check(kernels)
