"""The best checkpoint beside the newest, and --early_stop."""

import errno
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from detection_task import DETECTION
from tests.helpers.commands import MAIN, ROOT, TINY_RUN, run_ok
from tests.helpers.data import make_shapes
from tests.helpers.runs import read_log
from training.early_stopping import Evaluations, Score, score_of
from training.output_dir import OutputDir
from util.checkpoint import load_checkpoint
from util.errors import UnreadableError, UserError


def row(epoch, **numbers):
    return {"epoch": epoch, "test_loss": 1.0, **numbers}


def test_the_number_that_decides():
    boxes = {"test_coco_eval_bbox": [0.1, 0.9]}
    masks = {"test_coco_eval_masks": [0.2], **boxes}
    panoptic = {"test_PQ_all": {"pq": 0.3, "n": 4}, **masks}
    metrics = DETECTION.metrics
    assert score_of(row(0, **boxes), metrics) == Score("AP of boxes", 0.1, 0)
    assert score_of(row(1, **masks), metrics) == Score("AP of masks", 0.2, 1)
    assert score_of(row(2, **panoptic), metrics) == Score("PQ", 0.3, 2)
    for nothing in ({}, {"test_coco_eval_bbox": [-1.0]}, {"test_coco_eval_bbox": []}):
        assert score_of(row(0, **nothing), metrics) is None
    assert str(Score("PQ", 0.3, 2)) == "PQ 0.3000"


def test_the_best_of_some_evaluations():
    def evaluations(*values):
        rows = [
            row(e) if v is None else row(e, test_coco_eval_bbox=[v]) for e, v in enumerate(values)
        ]
        found = Evaluations(rows, DETECTION.metrics)
        return found.best() and found.best().epoch, found.since_best()

    assert evaluations() == (None, 0) == evaluations(None, -1.0)
    assert evaluations(0.0) == (0, 0)
    assert evaluations(0.1, 0.3, 0.3, 0.2) == (1, 2)  # as good is not better
    assert evaluations(0.1, None, 0.3, None, None, 0.2) == (2, 1)
    changed = [row(0, test_coco_eval_bbox=[0.9]), row(1, test_coco_eval_masks=[0.1])]
    assert Evaluations(changed, DETECTION.metrics).best() == Score("AP of masks", 0.1, 1)


@pytest.fixture(scope="module")
def easy(tmp_path_factory) -> Path:
    """One object an image, in one place: average precision comes and goes in a few epochs."""
    out = tmp_path_factory.mktemp("data") / "easy"
    make_shapes(out, "--train", "16", "--val", "6", "--size", "80")
    for split in ("train2017", "val2017"):
        path = out / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        content["annotations"] = [
            {"id": i, "image_id": image["id"], "category_id": 1, "bbox": [20, 20, 40, 40],
             "area": 1600, "iscrowd": 0} for i, image in enumerate(content["images"], start=1)
        ]  # fmt: skip
        path.write_text(json.dumps(content))
    return out


EASY = [
    MAIN, *TINY_RUN, "--lr", "2e-3", "--lr_backbone", "1e-3", "--augment", "flip", "--dropout",
    "0", "--clip_max_norm", "0", "--ema", "0.9", "--lr_drop", "100",
]  # fmt: skip


@pytest.fixture(scope="module")
def stopped(easy, tmp_path_factory):
    """Train with --early_stop 2 and --epochs 20."""
    out = tmp_path_factory.mktemp("stopped")
    options = [*EASY, "--coco_path", easy, "--output_dir", out, "--early_stop", "2"]
    return out, options, run_ok(*options, "--epochs", "20").stdout


def test_early_stop_ends_the_run(stopped):
    out, options, stdout = stopped
    aps = [line["test_coco_eval_bbox"][0] for line in read_log(out)]
    assert 3 <= len(aps) < 20 and max(aps) > 0
    best = aps.index(max(aps))
    assert best == len(aps) - 3
    what = f"2 evaluation(s) not better than AP of boxes {max(aps):.4f} of epoch {best + 1}/20"
    assert f"stopped early: {what}, --early_stop 2" in stdout
    assert stdout.count("Classes, IoU metric: bbox") == 1
    assert load_checkpoint(str(out / "checkpoint.pth"))["epoch"] == len(aps) - 1
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = run_ok(*options, "--epochs", "20", "--resume", "auto").stdout
    assert f"has {what}; nothing to do at --early_stop 2" in again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


@pytest.mark.slow
def test_a_run_that_stopped_early_can_go_on(stopped, tmp_path):
    out, options, _ = stopped
    copied = tmp_path / "run"
    shutil.copytree(out, copied)
    done = len(read_log(out))
    options = [copied if option == out else option for option in options]
    epochs = ["--epochs", str(done + 1), "--resume", "auto"]
    result = run_ok(*options, *epochs, "--early_stop", "3")
    assert "--early_stop 2 -> 3" in result.stdout
    aps = [line["test_coco_eval_bbox"][0] for line in read_log(copied)]
    assert len(aps) == done + 1
    best = f"AP of boxes {max(aps):.4f} of epoch {aps.index(max(aps)) + 1}/{done + 1}"
    assert f"the best evaluation: {best}\n" in result.stdout
    # All epochs are done now, whatever --early_stop says.
    result = run_ok(*options, *epochs, "--early_stop", "0")
    assert f"all of its {done + 1} epochs; nothing to do at --epochs {done + 1}" in result.stdout


def test_the_best_checkpoint_is_that_of_the_best_evaluation(stopped, easy, tmp_path):
    out, _, _ = stopped
    aps = [line["test_coco_eval_bbox"][0] for line in read_log(out)]
    best = load_checkpoint(str(out / "checkpoint_best.pth"))
    assert best["epoch"] == aps.index(max(aps))
    result = run_ok(
        *EASY, "--coco_path", easy, "--eval", "--resume", out / "checkpoint_best.pth",
        "--output_dir", tmp_path,
    )  # fmt: skip
    assert "checkpoint_best.pth: its averaged weights are used" in result.stdout
    averaged = torch.load(tmp_path / "eval.pth", weights_only=False)
    precision = averaged["precision"][..., 0, 2]
    assert precision[precision > -1].mean() == pytest.approx(max(aps), abs=1e-9)
    # The weights themselves give other scores.
    plain = {name: value for name, value in best.items() if not name.startswith("ema")}
    torch.save(plain, tmp_path / "plain.pth")
    run_ok(*EASY, "--coco_path", easy, "--eval", "--resume", tmp_path / "plain.pth",
           "--output_dir", tmp_path)  # fmt: skip
    other = torch.load(tmp_path / "eval.pth", weights_only=False)
    assert not (other["scores"] == averaged["scores"]).all()
    assert "checkpoint.pth" in run_ok(ROOT / "tools" / "show_run.py", out).stdout


@pytest.mark.slow
def test_the_best_so_far_is_known_after_a_resume(stopped, tmp_path):
    """The next epoch is not the best of all only because it is the first since the start."""
    out, options, _ = stopped
    copied = tmp_path / "run"
    shutil.copytree(out, copied)
    (copied / "checkpoint_best.pth").unlink()
    options = [copied if option == out else option for option in options]
    done = len(read_log(out))
    run_ok(*options, "--epochs", str(done + 1), "--resume", "auto", "--early_stop", "0",
           "--lr", "1e-9", "--lr_backbone", "1e-9")  # fmt: skip
    aps = [line["test_coco_eval_bbox"][0] for line in read_log(copied)]
    assert len(aps) == done + 1
    assert (copied / "checkpoint_best.pth").exists() == (aps[-1] > max(aps[:-1]))


def write_run(folder: Path, aps: list[float]) -> None:
    folder.mkdir()
    rows = [row(e, test_coco_eval_bbox=[ap] * 12) for e, ap in enumerate(aps)]
    (folder / "log.txt").write_text("".join(json.dumps(line) + "\n" for line in rows))
    for name in ("checkpoint.pth", "checkpoint_best.pth", "checkpoint0001.pth"):
        torch.save({"of": name}, folder / name)


@pytest.mark.parametrize(("aps", "moved"), [([0.1, 0.2, 0.4, 0.3], True), ([0.5, 0.2, 0.4], False)])
def test_going_back_before_the_best_moves_it_aside(tmp_path, aps, moved):
    write_run(tmp_path / "run", aps)
    output = OutputDir(tmp_path / "run", DETECTION.metrics)
    rows = output.continue_run(str(tmp_path / "run" / "checkpoint0001.pth"), 1, [])
    assert [line["epoch"] for line in rows] == [0, 1]
    aside = {path.name for path in (tmp_path / "run" / "earlier_run_1").iterdir()}
    assert aside >= {"checkpoint.pth"} and ("checkpoint_best.pth" in aside) == moved


def test_going_back_moves_later_checkpoints_aside(tmp_path):
    """Or --resume auto would take one of them if the run is killed before it has saved itself."""
    run = tmp_path / "run"
    write_run(run, [0.1] * 12)
    for name in ("checkpoint0000", "checkpoint0007", "checkpoint0011", "checkpoint9999_mine"):
        torch.save({"of": name}, run / f"{name}.pth")
    output = OutputDir(run, DETECTION.metrics)
    output.continue_run(str(run / "checkpoint0007.pth"), 7, [])
    kept = {path.name for path in run.glob("checkpoint*.pth")}
    assert kept == {
        "checkpoint0000.pth", "checkpoint0001.pth", "checkpoint0007.pth", "checkpoint9999_mine.pth",
        "checkpoint_best.pth",
    }  # fmt: skip
    aside = {path.name for path in (run / "earlier_run_1").glob("checkpoint*.pth")}
    assert aside == {"checkpoint.pth", "checkpoint0011.pth"}


@pytest.mark.parametrize("link", ["the checkpoint", "the folder"])
def test_a_link_to_another_disk_is_this_run(tmp_path, link):
    run, disk = tmp_path / "run", tmp_path / "disk"
    if link == "the folder":
        write_run(disk, [0.1, 0.2])
        run.symlink_to(disk)
    else:
        write_run(run, [0.1, 0.2])
        disk.mkdir()
        (run / "checkpoint.pth").rename(disk / "other.pth")
        (run / "checkpoint.pth").symlink_to(disk / "other.pth")
    output = OutputDir(run, DETECTION.metrics)
    path, _ = output.newest_checkpoint()
    output.continue_run(path, 1, [])
    assert not (run / "earlier_run_1").exists()
    assert (run / "checkpoint.pth").is_symlink() == (link == "the checkpoint")


def test_resume_auto_trusts_where_it_is_told_to(tmp_path):
    (tmp_path / "run").mkdir()
    torch.save({"of": Fraction(1, 3)}, tmp_path / "run" / "checkpoint.pth")
    output = OutputDir(tmp_path / "run", DETECTION.metrics)
    with pytest.raises(UserError, match="none of the checkpoints"):
        output.newest_checkpoint()
    assert output.newest_checkpoint(trust=True)[1] == {"of": Fraction(1, 3)}


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "there is not enough memory"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Permission denied"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_now_is_not_passed_over(
    tmp_path, monkeypatch, error, says
):
    """An older one would take its place, and what it holds would be moved aside."""
    write_run(tmp_path / "run", [0.1, 0.2])
    load = torch.load

    def fail(path, **options):
        if Path(path).name == "checkpoint.pth":
            raise error
        return load(path, **options)

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(UnreadableError, match=rf"checkpoint\.pth: cannot be read now: .*{says}"):
        OutputDir(tmp_path / "run", DETECTION.metrics).newest_checkpoint()
    monkeypatch.setattr(torch, "load", load)
    (tmp_path / "run" / "checkpoint.pth").write_bytes(b"PK\x03\x04 and no more")
    path, _ = OutputDir(tmp_path / "run", DETECTION.metrics).newest_checkpoint()
    assert Path(path).name == "checkpoint0001.pth"


def test_what_another_run_has_saved_since_is_not_overwritten(tmp_path):
    run = tmp_path / "run"
    write_run(run, [0.1, 0.2])
    output = OutputDir(run, DETECTION.metrics)
    path, _ = output.newest_checkpoint()
    torch.save({"of": "the other run"}, run / "new")
    os.replace(run / "new", run / "checkpoint.pth")
    with pytest.raises(UserError, match=r"another run has written .* since it was read"):
        output.continue_run(path, 1, [])
    again = OutputDir(run, DETECTION.metrics)
    again.continue_run(again.newest_checkpoint()[0], 1, [])


def test_the_best_is_the_last_choice_of_resume_auto(tmp_path):
    write_run(tmp_path / "run", [0.1])
    output = OutputDir(tmp_path / "run", DETECTION.metrics)
    for name in ("checkpoint.pth", "checkpoint0001.pth", "checkpoint_best.pth"):
        path, content = output.newest_checkpoint()
        assert Path(path).name == name == content["of"]
        Path(path).unlink()
    write_run(tmp_path / "old", [0.1])
    OutputDir(tmp_path / "old").continue_run("", -1, [])
    assert (tmp_path / "old" / "earlier_run_1" / "checkpoint_best.pth").exists()


@pytest.mark.slow
def test_no_evaluation_no_best(easy, tmp_path):
    """An epoch that is not evaluated, and one with nothing to find."""
    empty = tmp_path / "empty"
    shutil.copytree(easy, empty)
    path = empty / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    result = run_ok(*EASY, "--coco_path", empty, "--output_dir", tmp_path / "out", "--epochs", "2",
                    "--eval_every", "2", "--early_stop", "1")  # fmt: skip
    rows = read_log(tmp_path / "out")
    assert [line.get("test_coco_eval_bbox", [None])[0] for line in rows] == [None, -1]
    assert not (tmp_path / "out" / "checkpoint_best.pth").exists()
    assert "best" not in result.stdout
    assert set(rows[1]["test_coco_eval_bbox_per_class"]["disc"]) == {-1}
