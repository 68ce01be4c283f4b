"""--accumulate and --ema: what a step is, what is evaluated, and that both go on after a stop."""

import copy
import math
from pathlib import Path

import pytest
import torch
from conftest import MAIN, TINY_RUN, answer_of_main, free_port, make_shapes, run_ok
from test_resume import RUN, assert_same_run, command, signal_all, start, wait_for
from torch import nn

from datasets.loaders import build_loaders
from engine import train_one_epoch
from models import build_model, load_detector
from util.checkpoint import load_checkpoint
from util.ema import WeightAverage
from util.errors import CommonError, UserError
from util.misc import collate_fn
from util.optimization import build_optimizer

CPU = torch.device("cpu")


# ---- accumulated gradients ----


class Toy(nn.Module):
    """Seven numbers from the mean colour of an image."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 7))

    def forward(self, samples):
        return self.layers(samples.tensors.mean((2, 3)))


class SquaredError(nn.Module):
    """A mean over images: of equal batches the mean is that of all their images."""

    weight_dict = {"loss_square": 2.0}  # noqa: RUF012

    def forward(self, outputs, targets):
        wanted = torch.stack([target["wanted"] for target in targets])
        error = (outputs - wanted).square().sum(1).mean()
        return {"loss_square": error, "class_error": error.detach()}


def toy_images(count: int) -> list:
    random = torch.Generator().manual_seed(1)
    return [
        (torch.rand(3, 8, 8, generator=random),
         {"image_id": torch.tensor(i), "wanted": torch.rand(7, generator=random)})
        for i in range(count)
    ]  # fmt: skip


def batches(images: list, size: int) -> list:
    return [collate_fn(images[i : i + size]) for i in range(0, len(images), size)]


class Recorder:
    """A boundary that keeps the weights after each step, and may want something."""

    def __init__(self, model: nn.Module, wanted: int = 0):
        self.model = model
        self.asked = []
        self.steps = []
        self.states = []
        self._wanted = wanted

    def wanted(self) -> int:
        self.asked.append(len(self.steps))
        return self._wanted

    def reached(self, agreed, metrics, batches) -> None:
        self.steps.append((agreed, metrics.count, batches))
        self.states.append(copy.deepcopy(self.model.state_dict()))


def train_toy(data: list, accumulate: int = 1, max_norm: float = 0) -> tuple[nn.Module, Recorder]:
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    recorder = Recorder(model, wanted=3)
    train_one_epoch(
        model, SquaredError(), data, optimizer, CPU, 0, max_norm, boundary=recorder,
        accumulate=accumulate,
    )  # fmt: skip
    return model, recorder


def assert_close(model: nn.Module, wanted: nn.Module) -> None:
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("max_norm", [0, 0.1])
def test_two_batches_of_two_are_one_of_four(max_norm):
    """Also at the end of the epoch, where one batch is left."""
    images = toy_images(10)
    wanted, _ = train_toy(batches(images, 4), max_norm=max_norm)
    found, recorder = train_toy(batches(images, 2), accumulate=2, max_norm=max_norm)
    assert_close(found, wanted)
    # Stopping is for the end of a step; everybody is asked before each batch, as without.
    assert recorder.steps == [(3, 2, 2), (3, 4, 2), (3, 5, 1)]
    assert recorder.asked == [0, 0, 1, 1, 2]
    other, _ = train_toy(batches(images, 2), max_norm=max_norm)
    assert not torch.allclose(other.layers[0].weight, wanted.layers[0].weight, atol=1e-3)


def test_a_group_that_begins_in_the_middle_of_an_epoch():
    """A run that goes on after two batches makes the same groups of those that are left."""
    images = toy_images(10)
    _, whole = train_toy(batches(images, 2), accumulate=2)
    model = Toy()
    model.load_state_dict(whole.states[0])
    rest = batches(images, 2)[2:]
    recorder = Recorder(model)
    train_one_epoch(
        model, SquaredError(), rest, torch.optim.AdamW(model.parameters()), CPU, 0,
        steps_before=2, boundary=recorder, accumulate=2,
    )  # fmt: skip
    assert [step[2] for step in recorder.steps] == [2, 1]


def test_a_loss_that_breaks_in_a_group_leaves_the_weights_before_it():
    images = toy_images(8)
    images[7][1]["wanted"][0] = math.nan
    before, _ = train_toy(batches(images[:4], 2), accumulate=2)
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    with pytest.raises(CommonError, match=r"loss is not finite on images 6, 7 \(loss_square nan"):
        train_one_epoch(model, SquaredError(), batches(images, 2), optimizer, CPU, 0, accumulate=2)
    for name, value in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


class RootOfDifference(nn.Module):
    """Its gradient is not finite where the outputs are what is wanted."""

    weight_dict = {"loss_root": 1.0}  # noqa: RUF012

    def forward(self, outputs, targets):
        scale = torch.tensor([float(target["image_id"] == 0) for target in targets])
        root = ((outputs - outputs.detach()).abs().sum(1) * scale + 1 - scale).sqrt().mean()
        return {"loss_root": root, "class_error": root.detach()}


def test_a_gradient_that_breaks_names_the_images_of_the_whole_group():
    model = Toy()
    optimizer = torch.optim.AdamW(model.parameters())
    before = copy.deepcopy(model.state_dict())
    says = r"gradient is not finite on images 0, 1, 2 \(loss_root 0.6667"
    with pytest.raises(CommonError, match=says):
        train_one_epoch(
            model, RootOfDifference(), batches(toy_images(3), 1), optimizer, CPU, 0, accumulate=3
        )
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def train_in_parallel(rank: int, port: int, out: Path) -> None:
    """One of two processes; counts how often gradients are exchanged."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    model = Toy()
    wrapped = nn.parallel.DistributedDataParallel(model)
    exchanges = []

    def exchange(_, bucket):
        exchanges.append(bucket.index())
        flat = bucket.buffer().div_(2)
        return (
            torch.distributed.all_reduce(flat, async_op=True)
            .get_future()
            .then(lambda future: future.value()[0])
        )

    wrapped.register_comm_hook(None, exchange)
    mine = batches(toy_images(20)[rank::2], 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    train_one_epoch(wrapped, SquaredError(), mine, optimizer, CPU, 0, accumulate=2)
    torch.save({"model": model.state_dict(), "exchanges": exchanges}, out / f"{rank}.pth")
    torch.distributed.destroy_process_group()


def test_two_processes_exchange_the_gradients_of_a_group_once(tmp_path):
    torch.multiprocessing.spawn(train_in_parallel, (free_port(), tmp_path), nprocs=2)
    told = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    assert told[0]["exchanges"] == [0, 0, 0]  # 5 batches, one bucket
    images = toy_images(20)
    wanted, _ = train_toy(batches(images, 8))
    for name, value in wanted.state_dict().items():
        assert torch.equal(told[0]["model"][name], told[1]["model"][name])
        torch.testing.assert_close(told[0]["model"][name], value, atol=1e-5, rtol=1e-5)


# ---- the average of the weights ----


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_average_is_that_of_the_weights_after_each_step(shapes, args, accumulate):
    options = args(*TINY_RUN, "--coco_path", shapes, "--lr", "1e-3", "--lr_backbone", "1e-3")
    model, criterion, _ = build_model(options)
    loader, _ = build_loaders(options)
    average, recorder = WeightAverage(model, decay=0.3), Recorder(model)
    train_one_epoch(
        model, criterion, loader, build_optimizer(model, options), CPU, 0, 0.1,
        boundary=recorder, accumulate=accumulate, average=average,
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
    torch.save({**content, "ema": {}, "ema_updates": 4}, tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"e\.pth: does not fit the model"):
        load_detector(tmp_path / "e.pth", "cpu")


def test_a_damaged_average_is_not_gone_on_with():
    model = Toy()
    average = WeightAverage(model, 0.9)
    average.update_parameters(model)
    saved = copy.deepcopy(average.to_checkpoint())
    again = WeightAverage(Toy(), 0.9)
    again.load_checkpoint(saved)
    assert again.to_checkpoint()["ema_updates"] == 1
    saved["ema"]["layers.0.weight"][0] = math.inf
    with pytest.raises(ValueError, match="not finite"):
        again.load_checkpoint(saved)


# ---- whole runs, stopped and gone on with ----


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("data") / "shapes"
    return make_shapes(out, "--train", "16", "--val", "3", "--size", "64", "--aspect", "1.5")


OPTIONS = ["--accumulate", "3", "--ema", "0.9"]


@pytest.mark.parametrize(
    ("stop", "processes"),
    [("SIGTERM", 1), ("SIGKILL", 2), pytest.param("SIGTERM", 2, marks=pytest.mark.slow)],
)
def test_a_stopped_run_goes_on_to_the_bit(data, tmp_path, stop, processes):
    """8 batches an epoch and process: steps of 3, 3 and 2; 4 with two: 3 and 1."""
    undisturbed = tmp_path / "undisturbed"
    run_ok(*command(data, undisturbed, processes, *OPTIONS, "--epochs", "2"))
    options = command(data, tmp_path, processes, *OPTIONS, "--epochs", "2")
    process = start(*options)
    wait_for(process, "saved after step 3 of epoch 1")
    signal_all(process, stop)
    process.communicate(timeout=60)
    checkpoint = load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert checkpoint["step"] in ({1: (3, 6, 8), 2: (3, 4)}[processes])
    assert checkpoint["ema_updates"] == {3: 1, 6: 2, 8: 3, 4: 2}[checkpoint["step"]] + (
        3 if processes == 1 else 2
    )
    resumed = run_ok(*options, "--resume", "auto")
    assert "evaluations are of the averaged weights (--ema 0.9)" in resumed.stdout
    assert_same_run(tmp_path, undisturbed)
    left, right = (load_checkpoint(str(p / "checkpoint.pth")) for p in (tmp_path, undisturbed))
    assert left["ema_updates"] == right["ema_updates"]
    name = "class_embed.weight"
    assert not torch.equal(left["ema"][name], left["model"][name])


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
    assert "AP of masks" in result.stdout
    checkpoint = load_checkpoint(str(tmp_path / "masks" / "checkpoint.pth"))
    for name, value in load_checkpoint(str(boxes))["ema"].items():
        for weights in ("model", "ema"):
            assert torch.equal(checkpoint[weights][f"detr.{name}"], value), (weights, name)
    head = "mask_head.lay1.weight"
    assert not torch.equal(checkpoint["model"][head], checkpoint["ema"][head])


@pytest.mark.slow
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
