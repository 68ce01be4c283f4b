"""Every mistake gets one line that names the thing, and an exit code that is not 0."""

import argparse
import json
import shutil

import pytest
import torch

import run_with_submitit
from main import get_args_parser
from tests.helpers.commands import MAIN, TINY_RUN, answer_of_main, error_line, run_ok
from tests.helpers.rpe_loops import WRONG_STRINGS
from util.cli import run_command
from util.errors import UserError


@pytest.fixture
def data(shapes, tmp_path):
    """A copy of the shapes data to break."""
    return shutil.copytree(shapes, tmp_path / "data")


@pytest.mark.parametrize("text", WRONG_STRINGS)
def test_wrong_rpe_strings(text, capsys):
    """In this process: what argparse says and exits with."""
    from util.cli import OneLineParser

    parser = OneLineParser(parents=[get_args_parser()])
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--enc_rpe2d", text])
    said = capsys.readouterr().err.strip()
    assert stop.value.code == 2
    assert "--enc_rpe2d" in said and repr(text) in said and WRONG_STRINGS[text] in said
    assert "\n" not in said


def test_wrong_rpe_string_from_the_shell():
    line = error_line(MAIN, "--coco_path", ".", "--enc_rpe2d", "rpe-2.0-prod-ctx-1-k")
    assert "--enc_rpe2d" in line and "method" in line and "rpe-{ratio}" in line


def test_missing_data(tmp_path):
    assert "--coco_path" in answer_of_main()
    assert "no such folder" in answer_of_main("--coco_path", tmp_path / "nothing")
    (tmp_path / "annotations").mkdir()
    line = answer_of_main("--coco_path", tmp_path)
    assert "instances_train2017.json" in line and "train/_annotations.coco.json" in line
    assert "instances_val2017.json" in answer_of_main("--coco_path", tmp_path, "--eval")


def test_no_image_folder(data):
    shutil.rmtree(data / "train2017")
    assert "train2017.zip" in answer_of_main("--coco_path", data)


def test_a_missing_image_that_a_loader_worker_meets(data):
    """As users start it; test_hostile_data.py has all kinds of bad images."""
    (data / "train2017" / "000000000003.jpg").unlink()
    line = error_line(MAIN, *TINY_RUN, "--coco_path", data, "--num_workers", "2")
    assert "000000000003.jpg" in line and "missing" in line


def test_annotations_that_are_not_coco(data):
    path = data / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({"boxes": []}))
    assert f"{path}: not a COCO annotation file" in answer_of_main("--coco_path", data)


def test_a_category_without_a_class(data):
    line = answer_of_main("--coco_path", data, "--num_classes", "5")
    assert "category_id 5" in line and "annotation" in line and "--num_classes 6" in line


def test_more_batch_than_images(data):
    assert "do not fill one batch" in answer_of_main("--coco_path", data, "--batch_size", "17")
    for name in ("train", "val"):
        path = data / "annotations" / f"instances_{name}2017.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "images": [],
                                    "annotations": []}))  # fmt: skip
    (data / "own.py").write_text("def make(*_):\n    return lambda *a: a\n")
    own = ["--augment", f"{data / 'own.py'}:make"]
    assert "do not fill one batch" in answer_of_main("--coco_path", data, *own)


def test_resume_without_a_file(data, tmp_path):
    line = answer_of_main("--coco_path", data, "--resume", tmp_path / "no.pth")
    assert "--resume" in line and "no.pth" in line


def test_resume_from_half_a_file(data, tmp_path):
    path = tmp_path / "half.pth"
    torch.save({"model": {"w": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    assert f"{path}: not a whole checkpoint" in answer_of_main(
        "--coco_path", data, "--resume", path
    )


def test_resume_auto_without_anything_to_evaluate(data, tmp_path):
    options = ["--coco_path", data, "--resume", "auto"]
    line = answer_of_main(*options, "--eval", "--output_dir", tmp_path)
    assert f"no checkpoint in {tmp_path}" in line
    assert "--output_dir" in answer_of_main(*options)


def test_devices(data):
    assert "--device tpu" in answer_of_main("--coco_path", data, "--device", "tpu")
    if not torch.cuda.is_available():
        line = error_line(MAIN, *TINY_RUN, "--coco_path", data, "--device", "cuda")
        assert "--device cuda: " in line and "use cpu" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--hidden_dim", "30"], "--hidden_dim"),
        (["--dropout", "1"], "--dropout"),
        (["--dilation"], "--dilation"),
        (["--backbone_weights", "imagenet"], "resnet10 has no ImageNet weights"),
        (["--backbone_weights", "no/such.pth"], "no/such.pth"),
        (["--lr_backbone", "0"], "--lr_backbone"),
        (["--masks", "--frozen_weights", "no/such.pth"], "no/such.pth"),
        (["--dataset_file", "coco_panoptic"], "--coco_panoptic_path"),
        (["--backbone", "vgg16"], "--backbone"),
        (["--output_dir", "/proc/nothing"], "--output_dir"),
    ],
)
def test_options_that_do_not_work(shapes, options, says):
    line = answer_of_main("--coco_path", shapes, *options)
    assert says in line


def test_numbers_have_limits():
    from util.cli import number, whole_number

    assert whole_number(2)("7") == 7 and whole_number(2, 7)("7") == 7 and number(0, 1)("1") == 1
    for parse, text, says in (
        (whole_number(2), "1", "of at least 2, is 1"),
        (whole_number(2, 7), "8", "a whole number from 2 to 7, is 8"),
        (whole_number(0, 7), "x", "a whole number, is 'x'"),
        (number(0, 1), "1.5", "a number from 0 to 1, is 1.5"),
        (number(0), "inf", "of at least 0, is inf"),
        (number(0, 1), "nan", "from 0 to 1, is nan"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=f"must be .*{says}$"):
            parse(text)


@pytest.fixture
def job_fails(shapes, monkeypatch, capsys):
    """job_fails(*options): the one line, on a machine without Slurm, which this one may have."""

    def submit(*options: str) -> str:
        monkeypatch.setenv("PATH", "/nowhere")
        monkeypatch.setattr("sys.argv", ["x", *TINY_RUN, "--coco_path", str(shapes), *options])
        with pytest.raises(SystemExit) as stop:
            run_command(run_with_submitit.submit)
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code in (1, 2)
        return line

    return submit


def test_a_slurm_job_without_slurm(job_fails):
    assert "no srun" in job_fails()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mem_gb", "0"], "--mem_gb 0"),
        (["--mem_gb", "-1"], "--mem_gb"),
        (["--account", ""], "--account is empty"),
        (["--job_dir", "jobs/%x"], "only %j"),
        (["--cluster", "local", "--qos", "high", "--mem_gb", "8"], "--qos, --mem_gb: only with"),
        (["--cluster", "local", "--nodes", "2"], "--nodes 2"),
        (["--cluster", "local", "--job_dir", "/proc/nothing/%j"], "--job_dir /proc/nothing"),
        (["--ngpus", "-1"], "--ngpus"),
    ],
)
def test_options_of_a_job_that_do_not_work(job_fails, options, says):
    assert says in job_fails(*options)


def test_a_job_in_this_process_is_the_run_itself(shapes, tmp_path, monkeypatch):
    """Its errors are raised as they are; submitit would start a debugger."""
    seen = []

    def fail(args):
        seen.append(args.output_dir)
        raise UserError("an error of the run")

    monkeypatch.setattr(run_with_submitit.detection, "main", fail)
    job = ["--cluster", "debug", "--job_dir", str(tmp_path / "jobs" / "%j")]
    monkeypatch.setattr("sys.argv", ["x", *TINY_RUN, "--coco_path", str(shapes), *job])
    with pytest.raises(UserError, match="an error of the run"):
        run_with_submitit.submit()
    assert seen == [str(tmp_path / "jobs" / "debug")]


def test_help_shows_defaults():
    text = " ".join(run_ok(MAIN, "--help").stdout.split())
    assert "(default: 0.0001)" in text and "--enc_rpe2d" in text


def test_defaults_are_those_of_detr():
    defaults = vars(get_args_parser().parse_args([]))
    published = {
        "lr": 1e-4, "lr_backbone": 1e-5, "batch_size": 2, "weight_decay": 1e-4, "epochs": 300,
        "lr_drop": 200, "clip_max_norm": 0.1, "frozen_weights": None, "backbone": "resnet50",
        "dilation": False, "position_embedding": "sine", "enc_layers": 6, "dec_layers": 6,
        "dim_feedforward": 2048, "hidden_dim": 256, "dropout": 0.1, "nheads": 8,
        "num_queries": 100, "pre_norm": False, "enc_rpe2d": "", "masks": False, "aux_loss": True,
        "set_cost_class": 1, "set_cost_bbox": 5, "set_cost_giou": 2, "mask_loss_coef": 1,
        "dice_loss_coef": 1, "bbox_loss_coef": 5, "giou_loss_coef": 2, "eos_coef": 0.1,
        "dataset_file": "coco", "coco_path": None, "coco_panoptic_path": None,
        "remove_difficult": False, "output_dir": "", "seed": 42, "resume": "", "start_epoch": 0,
        "eval": False, "num_workers": 4, "world_size": 1, "dist_url": "env://",
    }  # fmt: skip
    assert {name: defaults[name] for name in published} == published
