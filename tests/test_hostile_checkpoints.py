"""Hostile and broken checkpoints: each gets one line, and nothing outside of its folder is touched.

The table of what was said is printed at the end of the tests.
"""

import json

import pytest
import torch
from conftest import TINY_MODEL, answer_of_main
from hostile_cases import fingerprint
from hostile_checkpoints import CHECKPOINTS, DETECTORS
from hostile_folders import FOLDERS
from hostile_training import BAD_ROWS

from models import build_model, load_detector
from models.starting_point import StartingPoint
from tools.show_run import print_tables
from util.best import Evaluations
from util.errors import UserError
from util.hf_folder import CONFIG, read_json, read_tensors, write_folder
from util.log_file import LogFile, read_log
from util.log_rows import check_row
from util.logged_runs import read_run
from util.optimization import build_optimizer
from util.output_dir import OutputDir
from util.precision import Precision
from util.run_state import RunState

# One of each kind goes through the whole program.
WHOLE = (
    "pickle: os.system", "a bit of a weight", "args of another model", "NaN weights",
    "log: a row with a tensor",
)  # fmt: skip
# A backbone that is not trained makes the files small.
FROZEN = ["--backbone_weights", "imagenet", "--lr_backbone", "0", "--num_classes", "9"]


class Resumed:
    """What main.py does with a checkpoint before it reads any data, on a model that is there."""

    def __init__(self, args):
        self.args = args(*TINY_MODEL, *FROZEN, "--resume", "any.pth")
        torch.manual_seed(0)
        self.model, _, _ = build_model(self.args)

    def state(self) -> RunState:
        optimizer = build_optimizer(self.model, self.args)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, self.args.lr_drop)
        precision = Precision("off", torch.device("cpu"))
        return RunState(self.model, optimizer, schedule, precision, self.args, {0: "cat"})

    def write(self, path) -> None:
        state = self.state()
        for parameter in self.model.parameters():
            parameter.grad = torch.ones_like(parameter) if parameter.requires_grad else None
        state.optimizer.step()
        state.lr_scheduler.step()
        state.complete_epoch({"train_loss": 1.0})
        state.evaluated({"epoch": 0, "train_loss": 1.0, "n_parameters": 7})
        torch.save(state.state_dict(), path)

    def resume(self, path) -> RunState:
        self.args.resume = str(path)
        start = StartingPoint(self.args)
        start.open(OutputDir(""))
        start.load_weights(self.model, {0: "cat"})
        state = self.state()
        state.load_state_dict(start.checkpoint, 2)
        return state


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from main import get_args_parser

    def args(*options):
        parsed = get_args_parser().parse_args([str(option) for option in options])
        parsed.rank, parsed.world_size, parsed.distributed = 0, 1, False
        return parsed

    run = Resumed(args)
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
    """What is no number is left out of what is drawn and printed, and is not lost."""
    _, row = BAD_ROWS[name]
    good = {"epoch": 0, "train_loss": 1.0}
    content = json.dumps(good) + "\n" + json.dumps({"train_lr": 0.5, **row, "epoch": 1}) + "\n"
    (tmp_path / "log.txt").write_text(content)
    rows, _ = read_log(tmp_path / "log.txt")
    assert rows == [good, {"train_lr": 0.5, "epoch": 1}]
    for log in (rows, LogFile(tmp_path / "log.txt").read(9)[0]):
        check_row(log[-1], "")
        assert Evaluations(log).best() is None
    print_tables(rows, None)
    assert len(read_run(tmp_path).epochs) == 2
    OutputDir(tmp_path).continue_run(str(tmp_path / "checkpoint.pth"), 1, [])
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
