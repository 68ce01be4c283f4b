"""Every command answers --help, mistakes, missing files and Ctrl-C before it imports PyTorch."""

import re
import signal
import subprocess
import sys

import pytest
import torchvision

from models import option_values
from rpe_ops.attention import ATTENTION
from tests.helpers.commands import ROOT
from tests.helpers.forks import default_signals
from training.amp import DTYPES
from training.start.options import AMP
from util.cli import OneLineParser, answer_first, run_command

COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.py", "tools/*.py", "classification/*.py", "classification/tools/*.py")
    for path in ROOT.glob(pattern)
    if path.parent.name == "tools" or '__name__ == "__main__"' in path.read_text()
    if path.name not in ("__init__.py", "setup.py")
)
# Stands in for PyTorch, and what is imported in its place: whoever imports one of them fails.
HEAVY = ("torch", "torchvision", "timm", "triton", "transformers")
REFUSES = 'raise RuntimeError(f"{__name__} was imported")\n'
WAITS = """
import os, time
os.write(1, b"importing\\n")
try:
    time.sleep(60)
except BaseException:
    pass
"""


@pytest.fixture
def instead(tmp_path, monkeypatch):
    """instead(source): what Python finds in the place of PyTorch."""

    def put(source: str) -> None:
        for name in HEAVY:
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def start(*command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=default_signals,
    )  # fmt: skip


def answer(*command: str) -> tuple[int, str, str]:
    process = start(*command)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def test_commands_are_found():
    for place in ("", "classification/"):
        names = ("main", "run_with_submitit", "tools/predict", "tools/show_rpe")
        assert {f"{place}{name}.py" for name in names} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_mistakes_come_before_pytorch(command, instead):
    instead(REFUSES)
    code, out, err = answer(command, "--help")
    assert (code, err) == (0, "")
    assert f"python {command} " in out.partition("options:")[0], "no example"
    assert not re.search(r"\(default: (None|False|True|==SUPPRESS==)?\)", out)

    code, out, err = answer(command, "--enc_rpe2d", "rpe-2.0-product-ctx-1-k", "--mistyped")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1 and ": error: " in err
    code, out, err = answer(command, "--mistyped")
    assert (code, out) == (2, "") and len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("rpe_ops", "--check"),
        ("detr_irpe.main", "--lr_drop"),
        ("detr_irpe.tools.predict", "--camera"),
    ],
)
def test_modules_answer_too(module, option, instead):
    """Although Python imports their packages first, of which users want PyTorch's parts."""
    instead(REFUSES)
    code, out, err = answer("-m", module, "--help")
    assert (code, err) == (0, "") and option in out
    code, out, err = answer("-m", module, "--mistyped")
    assert (code, out) == (2, "") and "unrecognized arguments: --mistyped" in err
    name = "rpe_index" if module == "rpe_ops" else "load_detector"
    code, out, err = answer("-c", f"from {module.partition('.')[0]} import {name}")
    assert code == 1 and "torch was imported" in err


def test_ctrl_c_ends_the_status_of_the_operators(instead):
    instead(WAITS)
    process = start("-m", "rpe_ops")
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, err) == (-signal.SIGINT, "")


# What each command says of a file that is missing.
CHECKPOINT = "absent.pth: no such checkpoint file"
RESUME = "--resume absent.pth: no such file"
PLACE = "absent: no such file or folder"
MISSING = {
    ("main.py", "--coco_path", "absent"): "--coco_path absent: no such folder",
    ("main.py", "--coco_path", ".", "--resume", "absent.pth"): RESUME,
    ("main.py", "--coco_path", ".", "--frozen_weights", "absent.pth"):
        "--frozen_weights absent.pth: no such file",
    ("main.py", "--coco_path", ".", "--backbone_weights", "absent.pth"):
        "--backbone_weights absent.pth: no such file",
    ("main.py", "--coco_path", ".", "--dataset_file", "coco_panoptic", "--coco_panoptic_path", "a"):
        "--coco_panoptic_path a: no such folder",
    ("run_with_submitit.py", "--coco_path", ".", "--finetune", "absent.pth"):
        "--finetune absent.pth: no such file",
    ("tools/check_data.py", "absent"): "--coco_path absent: no such folder",
    ("tools/check_data.py", "--test_images", "absent", "--test_ann", "LICENSE", "--split", "test"):
        "--test_images absent: no such file or folder",
    ("tools/compare.py", "absent", "--output_dir", "out"): PLACE,
    ("tools/convert.py", "absent.pth", "out.pth"): CHECKPOINT,
    ("tools/convert_data.py", "absent", "out"): PLACE,
    ("tools/cost.py", "--resume", "absent.pth"): CHECKPOINT,
    ("tools/error_report.py", "absent.pth"): CHECKPOINT,
    ("tools/error_report.py", "LICENSE", "--coco_path", "absent"):
        "--coco_path absent: no such folder",
    ("tools/export_onnx.py", "absent.pth"): CHECKPOINT,
    ("tools/plot_logs.py", "tests", "absent"): PLACE,
    ("tools/predict.py", "absent.pth", "a.jpg"): CHECKPOINT,
    ("tools/predict.py", "LICENSE", "README.md", "*.absent"):
        "*.absent: no such file or folder, and no file matches the pattern",
    ("tools/show_rpe.py", "absent.pth"): CHECKPOINT,
    ("tools/show_rpe.py", "LICENSE", "absent"): PLACE,
    ("tools/show_run.py", "absent.pth"): CHECKPOINT,
    ("tools/show_run.py", "LICENSE", "--val_images", "absent", "--val_ann", "LICENSE"):
        "--val_images absent: no such file or folder",
    ("classification/main.py", "--data-path", "absent"): "--data-path absent: no such folder",
    ("classification/main.py", "--data-path", ".", "--resume", "absent.pth"): RESUME,
    ("classification/main.py", "--data-path", ".", "--distillation-type", "hard", "--teacher-path",
     "absent.pth"): "--teacher-path absent.pth: no such file",
    ("classification/run_with_submitit.py", "--data-path", ".", "--finetune", "absent.pth"):
        "--finetune absent.pth: no such file",
    ("classification/tools/error_page.py", "absent.pth", "."): CHECKPOINT,
    ("classification/tools/error_page.py", "LICENSE", "absent"): PLACE,
    ("classification/tools/export_onnx.py", "absent.pth"): CHECKPOINT,
    ("classification/tools/predict.py", "absent.pth", "a.jpg"): CHECKPOINT,
    ("classification/tools/predict.py", "LICENSE", "absent"):
        "absent: no such file or folder, and no file matches the pattern",
    ("classification/tools/show_rpe.py", "absent.pth"): CHECKPOINT,
    ("classification/tools/show_rpe.py", "LICENSE", "absent"): PLACE,
}  # fmt: skip


def test_every_command_that_reads_has_a_missing_file():
    draw = {"tools/make_relations.py", "tools/make_shapes.py"}
    assert {command for command, *_ in MISSING} == set(COMMANDS) - draw


@pytest.mark.parametrize("command", MISSING, ids=" ".join)
def test_missing_files_come_before_pytorch(command, instead, monkeypatch):
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    instead(REFUSES)
    assert answer(*command) == (1, "", f"error: {MISSING[command]}\n")


@pytest.mark.parametrize("launcher", ["RANK", "SLURM_PROCID"])
def test_processes_of_a_run_agree_on_missing_files(launcher, instead, monkeypatch):
    """So no process ends before the others wait for it: files may be missing on one machine."""
    monkeypatch.setenv(launcher, "1")
    instead(REFUSES)
    _, _, err = answer("main.py", "--coco_path", "absent")
    assert "torch was imported" in err


@pytest.mark.parametrize(
    "command",
    ["main.py --coco_path .", "tools/make_shapes.py out", "classification/main.py --data-path ."],
    ids=lambda command: command.split()[0],
)
def test_ctrl_c_during_imports(command, instead):
    """The import goes on after any exception, as libraries do that try one another."""
    instead(WAITS)
    process = start(*command.split())
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


def test_a_command_gets_ctrl_c_as_an_exception(monkeypatch):
    """As run_command expects it, which says so and keeps what `finally` does."""
    monkeypatch.setattr("sys.argv", ["command.py"])
    before, seen = signal.getsignal(signal.SIGINT), []
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        answer_first(OneLineParser)
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        run_command(lambda: seen.append(signal.getsignal(signal.SIGINT)))
        assert seen == [signal.default_int_handler]
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
        answer_first(OneLineParser)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_values_that_need_no_pytorch_are_the_true_ones():
    models = torchvision.models
    theirs = models.list_models(models, include=["resne*", "wide_resnet*"])
    assert {*option_values.SMALL_BACKBONES, *theirs} == set(option_values.BACKBONES)
    assert option_values.ATTENTION == ATTENTION and tuple(DTYPES) == AMP
