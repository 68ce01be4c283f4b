"""Training and evaluation on a pretended GPU (tests/pretended_gpu/device.py).

It finds tensors of two devices in one operator, and counts what makes the CPU wait for the GPU.
"""

import json
import shutil
import subprocess

import pytest
import torch

from tests.helpers.commands import ROOT, run_ok

pytestmark = [
    pytest.mark.skipif(torch.version.cuda is None, reason="PyTorch was built without CUDA"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = ROOT / "tests/pretended_gpu/driver.cpp"
    soname = f"-Wl,-soname,{library.name}"
    subprocess.run(["c++", "-shared", "-fPIC", soname, "-o", library, source], check=True)
    return library


@pytest.fixture(scope="module")
def steps(driver):
    """Return what steps.py measures for each named variant."""

    def measure(*names: str) -> dict[str, dict]:
        env = {"LD_PRELOAD": str(driver), "TRITON_INTERPRET": "1", "RPE_OPS_TRITON": "off"}
        result = run_ok("-m", "tests.pretended_gpu.steps", *names, env=env, timeout=600)
        rows = [json.loads(row) for row in result.stdout.splitlines() if row.startswith("{")]
        return {row["name"]: row for row in rows}

    return measure


def assert_few_waits(row: dict, training: float, evaluation: float) -> None:
    for part, most in (("training", training), ("evaluation", evaluation)):
        waits = row[part]["waits"]
        listed = "\n".join(f"{count:5.2f}  {wait}" for wait, count in waits.items())
        print(f"{row['name']}, {part}: waits of a batch\n{listed}")
        assert 1 <= sum(waits.values()) <= most, listed


def test_steps_wait_for_the_matcher_the_stop_flag_and_the_norm(steps):
    rows = steps("boxes", "masks")
    for row in rows.values():  # a half of a wait each: means are read at the end of 4 steps
        assert_few_waits(row, 3.5, 2.5)
        assert row["loss"] == pytest.approx(row["loss_on_cpu"], rel=1e-4)


@pytest.mark.slow
def test_other_ways_to_train_wait_as_rarely(steps):
    rows = steps("fp16", "average", "accumulated", "panoptic")
    # With float16 the scale is read after an overflow, as in the first steps.
    for name, row in rows.items():
        assert_few_waits(row, 4.5 if name == "fp16" else 3.5, 2.5)


@pytest.mark.nightly
def test_fused_attention_waits_as_rarely(steps):
    assert_few_waits(steps("fused")["fused"], 3.5, 2.5)


@pytest.mark.slow
def test_a_step_of_the_published_model_has_few_operators(steps):
    row = steps("published")["published"]
    assert_few_waits(row, 4, 2.5)
    calls, formula = row["training"]["calls"], row["training"]["formula"]
    print(f"operators of a step: {calls}, {formula} with attention written out")
    # 329 fold batch norm in the first of 4 steps, as in that of each epoch.
    assert 2000 < calls <= 3250
    assert calls + 500 < formula <= 3900
    assert 800 < row["evaluation"]["calls"] <= 1250


CHECK = """
from tests.pretended_gpu.device import MixedDevices, counts, pretend_cuda
import torch
with pretend_cuda():
    cpu, gpu = torch.arange(4.0), torch.arange(4.0).to("cuda")
    for work in (lambda: cpu + gpu, lambda: torch.where(gpu > 1, gpu, cpu)):
        try:
            work()
        except MixedDevices as error:
            assert "CPU [(4,)]" in str(error), error
        else:
            raise AssertionError("mixed devices were not noticed")
    try:
        gpu.numpy()
    except TypeError:
        pass
    else:
        raise AssertionError("NumPy read the device")
    counts.clear()
    quiet = gpu.to("cpu", torch.float64).device, gpu * 2.0, gpu[torch.tensor([1])]
    for wait in (
        lambda: gpu.cpu(), lambda: gpu.tolist(), lambda: gpu.sum().item(), lambda: gpu[gpu > 1],
        lambda: gpu.nonzero(), lambda: torch.tensor([1.0], device="cuda"), lambda: bool(gpu[0] > 1),
        lambda: torch.cuda.Event().synchronize(), lambda: cpu.to("cuda"),
    ):
        before = sum(counts.waits.values())
        wait()
        assert sum(counts.waits.values()) > before
    before = sum(counts.waits.values())
    cpu.to("cuda", non_blocking=True)
    torch.zeros(3, device="cuda").add_(1)
    pinned = torch.empty(4, pin_memory=True)
    pinned.copy_(gpu, non_blocking=True)
    assert pinned.tolist() == [0, 1, 2, 3]
    assert sum(counts.waits.values()) == before
    weight = torch.nn.Parameter(torch.tensor([2.0, 3.0])).to("cuda").detach().requires_grad_()
    (weight * weight).sum().backward()
    assert weight.grad.is_cuda and weight.grad.tolist() == [4, 6]
"""


def test_the_pretended_device_notices_what_a_gpu_would(driver):
    run_ok("-c", CHECK, env={"LD_PRELOAD": str(driver)})
