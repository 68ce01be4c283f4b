"""Hostile and broken checkpoints: each gets one line, and nothing outside of its folder is touched.

The table of what was said is printed at the end of the tests.
"""

import json

import pytest
import torch

from datasets.score_tables import print_tables
from detection_task import DETECTION
from detector import load_detector
from tests.helpers.commands import answer_of_main
from tests.helpers.resumed_runs import FROZEN, Resumed
from tests.hostile.cases import fingerprint
from tests.hostile.checkpoints import CHECKPOINTS, DETECTORS
from tests.hostile.training_states import BAD_ROWS
from tests.hostile.weight_folders import FOLDERS
from tools.hf_detr.folder import CONFIG, read_json, read_tensors, write_folder
from tools.run_curves.runs import read_run
from training.early_stopping import Evaluations
from training.log import LogFile, check_row, read_log
from training.output_dir import OutputDir
from util.errors import UserError

# One of each kind goes through the whole program.
WHOLE = (
    "pickle: os.system", "a bit of a weight", "args of another model", "NaN weights",
    "log: a row with a tensor",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = Resumed()
    run.good = tmp_path_factory.mktemp("good") / "checkpoint.pth"
    run.write(run.good)
    return run


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("nobody may touch this")
    return folder


def answer(action, *arguments) -> str:
    with pytest.raises(UserError) as error:
        action(*arguments)
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_good_one_is_resumed(run):
    state = run.resume(run.good)
    assert (state.epoch, state.lr_scheduler.last_epoch, len(state.log)) == (0, 1, 1)
    assert all(moments["step"] == 1 for moments in state.optimizer.state.values())


def test_what_does_not_matter_is_read_over(run, tmp_path):
    """Unknown keys, of other code or other versions of PyTorch, are ignored."""
    good = torch.load(run.good, weights_only=False)
    vars(good["args"]).update({"self": 1, 3: torch.ones(2), "amount": 10**400})
    good["lr_scheduler"] |= {"step": "hides the method", "verbose": False}
    good["more"] = [torch.ones(1)]
    for group in good["optimizer"]["param_groups"]:
        del group["fused"], group["maximize"], group["amsgrad"]
        group["new"] = "of PyTorch 3"
    torch.save(good, tmp_path / "other.pth")
    state = run.resume(tmp_path / "other.pth")
    state.lr_scheduler.step()
    assert state.lr_scheduler.last_epoch == 2
    assert [group["fused"] for group in state.optimizer.param_groups] == [True, True]
    load_detector(tmp_path / "other.pth", "cpu")


@pytest.mark.parametrize("name", sorted(CHECKPOINTS.keys() - set(WHOLE)))
def test_a_checkpoint(name, run, outside, check, tmp_path):
    write, says = CHECKPOINTS[name]
    path = tmp_path / "stranger.pth"
    write(path, torch.load(run.good, weights_only=False), outside)
    before = fingerprint(outside)
    line = answer(run.resume, path)
    assert fingerprint(outside) == before
    assert "stranger.pth" in line
    check(name, says, line)


@pytest.mark.parametrize("name", sorted(DETECTORS))
def test_a_detector(name, run, outside, check, tmp_path):
    write, says = DETECTORS[name]
    path = tmp_path / "stranger.pth"
    write(path, torch.load(run.good, weights_only=False), outside)
    line = answer(load_detector, path, "cpu")
    assert "stranger.pth" in line
    check(name, says, line)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_weights(name, outside, check, tmp_path):
    write, says = FOLDERS[name]
    folder = tmp_path / "detr"
    write_folder(folder, {"model_type": "detr"}, {}, {"weight": torch.ones(100)})
    write(folder)
    before = fingerprint(outside)
    line = answer(lambda: (read_json(folder / CONFIG), read_tensors(folder)))
    assert fingerprint(outside) == before
    check(name, says, line)


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"model_type": "detr"}')
    assert read_json(path) == {"model_type": "detr"}


@pytest.mark.parametrize("name", [n for n, (_, row) in BAD_ROWS.items() if len(row) > 1])
def test_a_row_of_a_log(name, tmp_path):
    """Values that are not numbers are neither drawn nor printed, but stay in the log."""
    _, row = BAD_ROWS[name]
    good = {"epoch": 0, "train_loss": 1.0}
    content = json.dumps(good) + "\n" + json.dumps({"train_lr": 0.5, **row, "epoch": 1}) + "\n"
    (tmp_path / "log.txt").write_text(content)
    rows, _ = read_log(tmp_path / "log.txt", DETECTION.log)
    assert rows == [good, {"train_lr": 0.5, "epoch": 1}]
    for log in (rows, LogFile(tmp_path / "log.txt", DETECTION.log).read(9)[0]):
        check_row(log[-1], "", DETECTION.log)
        assert Evaluations(log, DETECTION.metrics).best() is None
    print_tables(rows[-1], None)
    assert len(read_run(tmp_path).epochs) == 2
    OutputDir(tmp_path, log_format=DETECTION.log).continue_run(
        str(tmp_path / "checkpoint.pth"), 1, []
    )
    kept = [path.read_text() for path in tmp_path.glob("earlier_run_1/log.txt")]
    assert kept == [content]


@pytest.mark.parametrize("name", WHOLE)
def test_a_checkpoint_through_the_whole_program(name, run, shapes, outside, check, tmp_path):
    write, says = CHECKPOINTS[name]
    path = tmp_path / "stranger.pth"
    write(path, torch.load(run.good, weights_only=False), outside)
    before = fingerprint(outside)
    line = answer_of_main("--coco_path", shapes, "--resume", path, "--epochs", "2", *FROZEN,
                          "--output_dir", tmp_path / "out")  # fmt: skip
    assert fingerprint(outside) == before
    assert [found.name for found in (tmp_path / "out").rglob("*")] == []
    check(name, says, line)
