"""Mixed precision, and the memory of freed tensors."""

import json

import pytest
import torch
from torch import nn

from datasets.loaders import build_loaders
from detection_task import build_optimizer, load_schedule
from engine import train_one_epoch
from models import build_model
from tests.helpers.commands import MAIN, TINY_RUN, run_ok
from training.amp import Precision
from util.misc import nested_tensor_from_tensor_list

CPU = torch.device("cpu")
KEPT = "from util.machine import keep_freed_memory; print(keep_freed_memory())"


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_the_model_runs_in_16_bits_and_its_outputs_are_float32(args, amp):
    model, _, _ = build_model(args(*TINY_RUN))
    model.eval()
    dtypes = []
    model.transformer.encoder.layers[0].linear1.register_forward_hook(
        lambda module, inputs, output: dtypes.append(output.dtype)
    )
    images = nested_tensor_from_tensor_list([torch.randn(3, 64, 96)])
    with torch.no_grad():
        plain = model(images)
        with Precision(amp, CPU).autocast():
            out = model(images)
    assert dtypes == [torch.float32, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp]]
    for name in ("pred_logits", "pred_boxes"):
        assert out[name].dtype == torch.float32
        torch.testing.assert_close(out[name], plain[name], atol=0.1, rtol=0.1)
        assert not torch.equal(out[name], plain[name])


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_run_in_16_bits_learns_and_goes_on(shapes, tmp_path, amp):
    common = [MAIN, "--coco_path", shapes, "--output_dir", tmp_path, *TINY_RUN, "--amp", amp]
    run_ok(*common, "--epochs", "2", "--lr", "1e-3")
    run_ok(*common, "--epochs", "3", "--lr", "1e-3", "--resume", tmp_path / "checkpoint.pth")
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert lines[2]["train_loss"] < lines[0]["train_loss"]
    state = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert all(p.dtype != torch.float16 for p in state["model"].values())
    assert ("scaler" in state) == (amp == "fp16")


def test_float16_leaves_out_a_step_whose_gradients_overflow():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1, fused=True)
    precision = Precision("fp16", CPU)
    before = model.weight.clone()
    precision.backward(model(torch.full((1, 2), 1e38)).sum())
    scale = precision.scaler.get_scale()
    precision.update(model, optimizer, max_norm=0.1)
    assert torch.equal(model.weight, before)
    assert precision.scaler.get_scale() < scale


def published_state(args, path) -> dict:
    """The checkpoint of a run in float32 whose optimizer is as PyTorch of 2021 saved it.

    Its groups know no "fused", and its steps are whole numbers.
    """
    model = build_model(args)[0]
    optimizer = build_optimizer(model, args)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    state = optimizer.state_dict()
    for group in state["param_groups"]:
        for name in set(group) - {"lr", "betas", "eps", "weight_decay", "amsgrad", "params"}:
            del group[name]
        group["initial_lr"] = group["lr"]
    for values in state["state"].values():
        values["step"] = int(values["step"])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, args.lr_drop).state_dict()
    checkpoint = {"model": model.state_dict(), "optimizer": state, "lr_scheduler": schedule}
    torch.save({**checkpoint, "epoch": 0, "args": args}, path)
    return torch.load(path, weights_only=False)


def test_a_published_optimizer_state_trains_in_float16(args, shapes, tmp_path):
    torch.manual_seed(0)
    options = args(*TINY_RUN, "--coco_path", shapes, "--amp", "fp16", "--resume", "published.pth")
    checkpoint = published_state(options, tmp_path / "published.pth")
    model, criterion, _ = build_model(options)
    model.load_state_dict(checkpoint["model"])
    optimizer = build_optimizer(model, options)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, options.lr_drop)
    load_schedule(optimizer, schedule, model, checkpoint, options)
    assert all(group["fused"] for group in optimizer.param_groups)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    steps = [optimizer.state[p]["step"] for p in trained]
    assert all(isinstance(step, torch.Tensor) and step.device == CPU for step in steps)
    loader, _ = build_loaders(options)
    before = [p.detach().clone() for p in trained]
    precision = Precision("fp16", CPU)
    # At the first scale all 8 steps may overflow.
    precision.scaler.load_state_dict({**precision.scaler.state_dict(), "scale": 256.0})
    train_one_epoch(model, criterion, loader, optimizer, CPU, 0, 0.1, precision=precision)
    assert all(optimizer.state[p]["step"] > 1 for p in trained)
    assert all(not torch.equal(p, old) for p, old in zip(trained, before, strict=True))


def test_training_in_float32_is_what_it_was_without_the_option(args, shapes):
    """Scaling and autocast, when off, are not there."""
    weights = []
    for precision in (None, Precision("off", CPU)):
        torch.manual_seed(0)
        options = args(*TINY_RUN, "--coco_path", shapes)
        model, criterion, _ = build_model(options)
        loader, _ = build_loaders(options)
        optimizer = build_optimizer(model, options)
        train_one_epoch(model, criterion, loader, optimizer, CPU, 0, 0.1, precision=precision)
        weights.append(model.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(weights[1][name], value), name


def test_freed_memory_is_kept_unless_the_user_has_another_wish():
    assert run_ok("-c", KEPT).stdout.strip() == "freed memory is kept"
    for variable, value in (
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=0"),
        ("THP_MEM_ALLOC_ENABLE", "1"),
    ):
        said = run_ok("-c", KEPT, env={variable: value}).stdout.strip()
        assert said == f"as {variable} says"


@pytest.mark.slow
def test_kept_memory_is_used_again_without_new_pages():
    """The same tensor, made and freed: page faults come with the first few alone."""
    program = """
import resource, sys, torch
from util.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(10):
    torch.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    kept = int(run_ok("-c", program, "keep").stdout)
    released = int(run_ok("-c", program, "release").stdout)
    assert kept < 100 and released > 10 * max(kept, 1)


def test_a_run_says_what_it_does_with_memory(shapes):
    common = [MAIN, "--coco_path", shapes, *TINY_RUN, "--eval"]
    assert "memory: freed memory is kept" in run_ok(*common).stdout
    assert "memory: released" in run_ok(*common, "--release_memory").stdout
