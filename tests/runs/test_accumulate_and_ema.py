"""--accumulate and --ema: what a step is, what is evaluated, and that both can be resumed."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch

from datasets.loaders import build_loaders
from detection_task import build_optimizer
from detector import load_detector
from engine import train_one_epoch
from models import build_model
from tests.helpers.commands import MAIN, TINY_RUN, answer_of_main, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import RUN, assert_same_run, command, signal_all, start, wait_for
from tests.helpers.toy_training import CPU, Recorder
from training.ema import WeightAverage, weights_to_use
from util.checkpoint import load_checkpoint
from util.errors import UserError

# ---- the average of the weights ----


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_average_is_that_of_the_weights_after_each_step(shapes, args, accumulate):
    options = args(*TINY_RUN, "--coco_path", shapes, "--lr", "1e-3", "--lr_backbone", "1e-3")
    model, criterion, _ = build_model(options)
    loader, _ = build_loaders(options)
    average, recorder = WeightAverage(model, decay=0.3), Recorder(model)
    train_one_epoch(
        model, criterion, loader, build_optimizer(model, options), CPU, 0, 0.1,
        hook=recorder, accumulate=accumulate, average=average,
    )  # fmt: skip
    assert len(recorder.states) == math.ceil(len(loader) / accumulate)
    wanted = {n: v.double() for n, v in recorder.states[0].items()}
    for updates, state in enumerate(recorder.states[1:], start=1):
        decay = min(0.3, (1 + updates) / (10 + updates))  # 2/11, 3/12, 4/13, then 0.3
        for name, value in state.items():
            old = wanted[name]
            counter = not value.is_floating_point()
            wanted[name] = value if counter else decay * old + (1 - decay) * value.double()
    found = average.module.state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].double(), value.double(), atol=1e-6, rtol=1e-5)
    name = "backbone.0.body.bn1.running_mean"
    assert not torch.allclose(found[name], model.state_dict()[name], rtol=1e-3)
    counted = found["backbone.0.body.bn1.num_batches_tracked"]
    assert counted == len(loader) and counted.dtype == torch.int64


def test_averaged_weights_are_used_wherever_the_checkpoint_is(args, tmp_path):
    options = args(*TINY_RUN, "--num_classes", "6")
    models = [build_model(options)[0] for _ in range(2)]
    content = {"model": models[0].state_dict(), "args": options}
    torch.save({**content, "ema": models[1].state_dict(), "ema_updates": 4}, tmp_path / "e.pth")
    torch.save(content, tmp_path / "plain.pth")
    for path, wanted in (("e.pth", models[1]), ("plain.pth", models[0])):
        found = load_detector(tmp_path / path, "cpu").model.state_dict()
        assert all(torch.equal(found[name], v) for name, v in wanted.state_dict().items())
    run_ok("tools/convert.py", tmp_path / "e.pth", tmp_path / "converted.pth")
    converted = load_checkpoint(str(tmp_path / "converted.pth"))
    assert "ema" not in converted
    for name, value in models[1].state_dict().items():
        assert torch.equal(converted["model"][name], value), name
    torch.save({**content, "ema": {}, "ema_updates": 4}, tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"e\.pth: does not fit the model"):
        load_detector(tmp_path / "e.pth", "cpu")


def test_the_average_is_taken_from_a_checkpoint_that_has_one():
    assert weights_to_use({"model": {"a": 1}, "ema": {"a": 2}, "ema_updates": 3}) == {"a": 2}
    assert weights_to_use({"model": {"a": 1}}) == {"a": 1}


def test_a_damaged_average_is_not_gone_on_with():
    model = torch.nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    average.update_parameters(model)
    saved = copy.deepcopy(average.to_checkpoint())
    again = WeightAverage(torch.nn.Linear(3, 2), 0.9)
    again.load_checkpoint(saved)
    assert again.to_checkpoint()["ema_updates"] == 1
    saved["ema"]["weight"][0] = math.inf
    with pytest.raises(ValueError, match="not finite"):
        again.load_checkpoint(saved)


# ---- whole runs, stopped and gone on with ----


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "3", "--size", "80", "--aspect", "1.5")


OPTIONS = ["--accumulate", "3", "--ema", "0.9"]


@pytest.mark.parametrize(
    ("stop", "processes"),
    [
        pytest.param("SIGTERM", 1, marks=pytest.mark.slow),
        pytest.param("SIGKILL", 2, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 2, marks=pytest.mark.nightly),
    ],
)
def test_a_stopped_run_goes_on_to_the_bit(data, tmp_path, stop, processes):
    """8 batches an epoch and process: steps of 3, 3 and 2; 4 with two: 3 and 1."""
    undisturbed = tmp_path / "undisturbed"
    run_ok(*command(data, undisturbed, processes, *OPTIONS, "--epochs", "2"))
    options = command(data, tmp_path, processes, *OPTIONS, "--epochs", "2")
    process = start(*options)
    wait_for(process, "saved after step 3 of epoch 2")
    signal_all(process, stop)
    process.communicate(timeout=60)
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    # Steps of the optimizer by batches of the second epoch; none where it just ended that epoch.
    steps = {1: {3: 1, 6: 2, 8: 3, 0: 3}, 2: {3: 1, 4: 2, 0: 2}}[processes]
    assert checkpoint["ema_updates"] == steps[checkpoint["step"]] + (3 if processes == 1 else 2)
    resumed = run_ok(*options, "--resume", "auto")
    assert "evaluations are of the averaged weights (--ema 0.9)" in resumed.stdout
    assert_same_run(tmp_path, undisturbed)
    left, right = (load_checkpoint(str(p / "checkpoint.pth")) for p in (tmp_path, undisturbed))
    assert left["ema_updates"] == right["ema_updates"]
    name = "class_embed.weight"
    assert not torch.equal(left["ema"][name], left["model"][name])


@pytest.mark.slow
def test_options_may_change_on_the_way(data, tmp_path):
    """An average that begins late begins with the weights; one that is not wanted is dropped."""
    common = command(data, tmp_path, 1, "--checkpoint_every", "0")
    run_ok(*common, "--epochs", "1")
    said = run_ok(*common, "--epochs", "2", "--resume", "auto", *OPTIONS).stdout
    assert "--accumulate 1 -> 3" in said and "--ema 0 -> 0.9" in said
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert checkpoint["ema_updates"] == 3
    run_ok(*common, "--epochs", "3", "--resume", "auto")
    assert "ema" not in load_checkpoint(str(tmp_path / "checkpoint.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_mask_head_on_an_averaged_detector(data, tmp_path, amp):
    """The frozen detector is the averaged one, and stays so in the average of both."""
    run = [*RUN, "--checkpoint_every", "0", "--coco_path", data, "--epochs", "1", *OPTIONS]
    run_ok(MAIN, *run, "--output_dir", tmp_path / "boxes")
    boxes = tmp_path / "boxes" / "checkpoint.pth"
    result = run_ok(
        MAIN, *run, "--masks", "--frozen_weights", boxes, "--output_dir", tmp_path / "masks",
        "--amp", amp,
    )  # fmt: skip
    assert f"--frozen_weights {boxes}: its averaged weights are used" in result.stdout
    assert re.search(r"^epoch 1/1  masks  AP \d", result.stdout, re.M)
    checkpoint = load_checkpoint(str(tmp_path / "masks" / "checkpoint.pth"))
    for name, value in load_checkpoint(str(boxes))["ema"].items():
        for weights in ("model", "ema"):
            assert torch.equal(checkpoint[weights][f"detr.{name}"], value), (weights, name)
    head = "mask_head.lay1.weight"
    assert not torch.equal(checkpoint["model"][head], checkpoint["ema"][head])


def test_a_model_that_starts_from_an_averaged_one(data, args, tmp_path):
    """Tuned with learning rates of next to nothing it stays what it was."""
    options = args(*TINY_RUN, "--num_classes", "6")
    model, averaged = (build_model(options)[0].state_dict() for _ in range(2))
    content = {"model": model, "ema": averaged, "ema_updates": 4, "args": options}
    torch.save(content, tmp_path / "e.pth")
    result = run_ok(
        *command(data, tmp_path / "out", 1, "--finetune", tmp_path / "e.pth", "--epochs", "1"),
        "--lr", "1e-12", "--lr_backbone", "1e-12", "--checkpoint_every", "0",
    )  # fmt: skip
    assert "e.pth: its averaged weights are used" in result.stdout
    tuned = load_checkpoint(str(tmp_path / "out" / "checkpoint.pth"))["model"]
    name = "transformer.encoder.layers.0.linear1.weight"
    torch.testing.assert_close(tuned[name], averaged[name], atol=1e-6, rtol=1e-4)
    assert not torch.allclose(model[name], averaged[name], atol=1e-3)


@pytest.mark.nightly
def test_compiled_models_are_averaged_alike(data, tmp_path):
    weights = []
    for compiled in ([], ["--compile"]):
        out = tmp_path / str(len(weights))
        run_ok(
            MAIN, *RUN, "--checkpoint_every", "0", "--coco_path", data, "--epochs", "1",
            "--dropout", "0", "--output_dir", out, *OPTIONS, *compiled,
        )  # fmt: skip
        weights.append(load_checkpoint(str(out / "checkpoint.pth"))["ema"])
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=5e-3, rtol=5e-2)


# ---- mistakes ----


def test_options_that_cannot_be(shapes, tmp_path):
    assert "--ema 1 must be below 1" in answer_of_main("--coco_path", shapes, "--ema", "1")
    for option, value in (("--accumulate", "0"), ("--early_stop", "-1"), ("--ema", "x")):
        assert option in answer_of_main("--coco_path", shapes, option, value)
