"""A new run from another model's weights: what is loaded, what is not, and what is said of it."""

import json
import shutil

import pytest
import torch

from checkpoints.finetune import LOADED, Transfer
from checkpoints.starting_point import StartingPoint
from detector import load_detector
from main import Run
from models import build_model
from tests.helpers.commands import MAIN, RPE, TINY_RUN, answer_of_main, run_ok
from tests.helpers.data import make_shapes
from util.checkpoint import load_checkpoint

# Without options of the model: the checkpoint has them.
RUN = [
    MAIN, "--device", "cpu", "--num_workers", "0", "--epochs", "1", "--batch_size", "2",
]  # fmt: skip
TABLE = "transformer.encoder.layers.0.self_attn.rpe_k.lookup_table_weight"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Two of the classes of `trained`, in another order, and one more."""
    out = tmp_path_factory.mktemp("data") / "other"
    return make_shapes(out, "--train", "4", "--val", "3", "--size", "80", "--layout", "roboflow",
                       "--classes", "star", "moon", "disc")  # fmt: skip


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    """A checkpoint of a short run: disc, square, triangle, star, plus are 1 to 5."""
    out = tmp_path_factory.mktemp("trained")
    run_ok(MAIN, *TINY_RUN, "--coco_path", shapes, "--epochs", "1", "--output_dir", out)
    return out / "checkpoint.pth"


def weights(path):
    return load_checkpoint(str(path))["model"]


def nothing_learned(*options):
    """Return options with learning rates of 0, so that weights stay as they were at the start."""
    return [*RUN, "--lr", "0", "--lr_backbone", "1e-30", "--weight_decay", "0", *options]


def test_all_that_fits_is_loaded(trained, other, tmp_path):
    result = run_ok(*nothing_learned("--coco_path", other, "--finetune", trained), "--output_dir",
                    tmp_path)  # fmt: skip
    before, checkpoint = weights(trained), load_checkpoint(str(tmp_path / "checkpoint.pth"))
    after, args = checkpoint["model"], checkpoint["args"]
    assert args.enc_rpe2d == RPE and args.hidden_dim == 32 and args.image_size == 64
    assert checkpoint["classes"] == {0: "shapes", 1: "star", 2: "moon", 3: "disc"}
    assert checkpoint["epoch"] == 0
    changed = {
        name for name, value in after.items()
        if value.shape != before[name].shape or not torch.equal(value, before[name])
    }  # fmt: skip
    # Batch norm of a backbone trained from scratch goes on counting.
    running = ("running_mean", "running_var", "num_batches_tracked")
    heads = {"class_embed.weight", "class_embed.bias"}
    assert {name for name in changed if not name.endswith(running)} == heads
    for name in heads:
        for here, there in ((1, 4), (3, 1), (4, -1)):  # star, disc, no-object
            assert torch.equal(after[name][here], before[name][there])
        assert not torch.equal(after[name][2], before[name][4])
    assert torch.equal(after["query_embed.weight"], before["query_embed.weight"])

    report = (tmp_path / "finetune.txt").read_text().splitlines()
    assert len(report) == len(after)
    assert f"{TABLE}: {LOADED}" in report
    said = "class_embed.weight: rows carried over by name: no-object, star, disc; new: shapes, moon"
    assert said in report
    lines = [line for line in result.stdout.splitlines() if f"--finetune {trained}: " in line]
    numbers = sum(value.numel() for value in after.values())
    new = 2 * (32 + 1)  # two classes of the head's five
    assert lines == [
        f"--finetune {trained}: {numbers - new:,} of the model's {numbers:,} parameters loaded, "
        f"{new} new, 0 of the checkpoint left out; classes: 2 known by name, 2 new; finetune.txt "
        "lists them"
    ]
    assert TABLE not in result.stdout
    assert f"--enc_rpe2d '{RPE}'" in result.stdout

    # Gone on with by the same command.
    again = run_ok(*RUN, "--coco_path", other, "--finetune", trained, "--output_dir", tmp_path,
                   "--resume", "auto", "--epochs", "2", "--lr", "1e-4")  # fmt: skip
    assert "rows carried over" not in again.stdout
    assert load_checkpoint(str(tmp_path / "checkpoint.pth"))["epoch"] == 1
    assert load_detector(tmp_path / "checkpoint.pth", "cpu").names[2] == "moon"


@pytest.mark.parametrize("masks", [False, True])
def test_detr_gets_an_encoding(args, other, tmp_path, masks):
    """As from DETR's own checkpoint, which knows no --enc_rpe2d and names no classes."""
    torch.manual_seed(1)
    plain = args(*TINY_RUN, "--enc_rpe2d", "", "--num_classes", "91")
    model, _, _ = build_model(plain)
    for name in ("enc_rpe2d", "num_classes", "image_size", "category_ids"):
        delattr(plain, name)
    torch.save({"model": model.state_dict(), "args": plain}, tmp_path / "detr.pth")
    options = [
        "--coco_path", other, "--finetune", tmp_path / "detr.pth", "--enc_rpe2d", RPE,
        "--image_size", "64", "--output_dir", tmp_path / "out", *["--masks"] * masks,
    ]  # fmt: skip
    result = run_ok(*nothing_learned(*options))
    prefix = "detr." * masks
    report = (tmp_path / "out" / "finetune.txt").read_text()
    assert f"{prefix}{TABLE}: new, not in the checkpoint\n" in report
    assert "rows carried over by name: no-object, none else" in report
    assert "classes: 0 known by name, 4 new" in result.stdout
    after, before = weights(tmp_path / "out" / "checkpoint.pth"), model.state_dict()
    assert after[prefix + TABLE].abs().max() > 0
    for name in ("transformer.decoder.layers.1.linear1.weight", "input_proj.weight"):
        assert torch.equal(after[prefix + name], before[name])


def transferred(model, source, names=None, **options):
    names = names or {1: "a", 2: "b"}
    transfer = Transfer(source, names, names, options.pop("same_rpe", True), "--finetune x")
    transfer.load(model)
    return transfer


def built(args, *options, seed=0):
    torch.manual_seed(seed)
    return build_model(args(*TINY_RUN, "--num_classes", "3", *options))[0]


def test_other_numbers_of_queries_and_layers(args):
    source = built(args).state_dict()
    for count, rows in ((5, 5), (11, 8)):
        model = built(args, "--num_queries", str(count), seed=1)
        new = model.query_embed.weight.detach().clone()
        transfer = transferred(model, source)
        said = f"{rows} of {count} rows loaded, the checkpoint has 8"
        assert transfer.done["query_embed.weight"] == said
        own = model.query_embed.weight
        assert torch.equal(own[:rows], source["query_embed.weight"][:rows])
        assert torch.equal(own[rows:], new[rows:])
        total = sum(value.numel() for value in model.state_dict().values())
        loaded = total - own[rows:].numel()
        assert f": {loaded:,} of the model's {total:,} parameters loaded, " in transfer.summary()
    model = built(args, "--enc_layers", "3", "--dec_layers", "1", seed=1)
    transfer = transferred(model, source)
    third = "transformer.encoder.layers.2.linear1.weight"
    assert transfer.done[third] == "new, not in the checkpoint"
    left_out = "transformer.decoder.layers.1.linear1.weight"
    assert left_out in transfer.left_out and f"{left_out}: left out\n" in transfer.report()
    count = sum(source[name].numel() for name in transfer.left_out)
    total = sum(value.numel() for value in model.state_dict().values())
    new = sum(v.numel() for n, v in model.state_dict().items() if transfer.done[n] != LOADED)
    assert f": {total - new:,} of the model's {total:,} parameters loaded, {new:,} new, " in (
        transfer.summary()
    )
    assert f", {count:,} of the checkpoint left out" in transfer.summary()


def test_tables_of_another_encoding_are_new(args):
    """Those of euc and quant have as many buckets, which mean other things."""
    source = built(args, "--enc_rpe2d", "rpe-2.0-euc-ctx-1-k").state_dict()
    model = built(args, "--enc_rpe2d", "rpe-2.0-quant-ctx-1-k", seed=1)
    new = model.state_dict()[TABLE].clone()
    transfer = transferred(model, source, same_rpe=False)
    assert transfer.done[TABLE] == "new, the checkpoint has another --enc_rpe2d"
    assert torch.equal(model.state_dict()[TABLE], new)
    assert f"{TABLE}: new, the checkpoint has another --enc_rpe2d\n" in transfer.report()


def test_encodings_without_tables(args):
    """Frequencies of another base, and a new bias, which changes nothing at first."""
    freqs = TABLE.replace("rpe_k.lookup_table_weight", "rope.freqs")
    source = built(args, "--enc_rpe2d", "rope-axial-20").state_dict()
    model = built(args, "--enc_rpe2d", "rope-axial", seed=1)
    transfer = transferred(model, source, same_rpe=False)
    assert transfer.done[freqs] == "new, the checkpoint has another --enc_rpe2d"
    assert model.state_dict()[freqs][1].item() == pytest.approx(0.1)
    mixed = built(args, "--enc_rpe2d", "rope-mixed").state_dict()
    model = built(args, "--enc_rpe2d", "rope-mixed", seed=1)
    assert transferred(model, mixed).done[freqs] == LOADED
    assert torch.equal(model.state_dict()[freqs], mixed[freqs])

    plain, biased = built(args, "--enc_rpe2d", ""), built(args, "--enc_rpe2d", "cpb-log", seed=1)
    transfer = transferred(biased, plain.state_dict(), same_rpe=False)
    new = [name for name, done in transfer.done.items() if done != LOADED]
    assert len(new) == 6 and all(".cpb.mlp." in name for name in new)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found, wanted = biased.eval()(images), plain.eval()(images)
    torch.testing.assert_close(found["pred_boxes"], wanted["pred_boxes"])
    torch.testing.assert_close(found["pred_logits"], wanted["pred_logits"])


def test_names_match_whatever_their_case(args):
    source, model = built(args).state_dict(), built(args, seed=1)
    transfer = Transfer(source, {1: "Traffic Light", 2: "b"}, {0: "b ", 1: "c", 2: "traffic light"},
                        True, "--finetune x")  # fmt: skip
    transfer.load(model)
    bias, before = model.state_dict()["class_embed.bias"], source["class_embed.bias"]
    assert torch.equal(bias[[0, 2, 3]], before[[2, 1, 3]]) and bias[1] != before[1]


def test_categories_that_no_object_has(trained, shapes, args, tmp_path):
    """As in a part of COCO whose file lists all of its categories."""
    data = tmp_path / "data"
    shutil.copytree(shapes, data)
    for path in (data / "annotations").glob("instances_*.json"):
        content = json.loads(path.read_text())
        content["categories"] += [{"id": -1, "name": "ignored"}, {"id": 90, "name": "toothbrush"}]
        path.write_text(json.dumps(content))
    given = args(*TINY_RUN, "--coco_path", data, "--num_classes", "6", "--finetune", trained)
    given.given = []
    start = StartingPoint(given)
    run = Run(start.complete(given), start, torch.device("cpu"))
    assert list(run.classes) == [1, 2, 3, 4, 5]
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": run.model.state_dict(), "args": run.args, "classes": run.classes}, path)
    assert list(load_detector(path).names) == [1, 2, 3, 4, 5]


def test_mistakes(trained, other, args, tmp_path):
    common = ["--coco_path", other]
    for options, says in (
        (["--finetune", tmp_path / "none.pth"], "none.pth: no such file"),
        (["--finetune", trained, "--eval"], "--eval takes its checkpoint by --resume"),
        (["--finetune", trained, "--nheads", "8"], "made with --nheads 4, this command has"),
        (["--finetune", trained, "--backbone", "resnet18"], "made with --backbone resnet10"),
        (["--finetune", trained, "--frozen_weights", trained, "--masks"], "exclude each other"),
    ):
        assert says in answer_of_main(*common, *options)
    bad = load_checkpoint(str(trained))
    bad["model"]["input_proj.bias"][0] = float("nan")
    torch.save(bad, tmp_path / "nan.pth")
    assert "not finite" in answer_of_main(*common, "--finetune", tmp_path / "nan.pth")
    torch.save({"weights": 1}, tmp_path / "foreign.pth")
    assert "it has no 'model'" in answer_of_main(*common, "--finetune", tmp_path / "foreign.pth")
    # Without args, the weights tell which model it is.
    torch.save({"model": weights(trained)}, tmp_path / "bare.pth")
    bare = [*common, "--finetune", tmp_path / "bare.pth"]
    assert "made with --hidden_dim 32, this" in answer_of_main(*bare, "--hidden_dim", "64")
    assert "made with --backbone resnet10, this" in answer_of_main(*bare, "--backbone", "resnet18")
