"""args.json: how a run was made."""

import argparse
import json
import platform
import subprocess

import pytest
import torch
import torchvision

from tests.helpers.commands import MAIN, ROOT, TINY_RUN, run_ok
from tests.helpers.data import make_shapes
from training.start import record
from training.start.record import git_state, read_starts, record_start
from util import VERSION


def options(**values) -> argparse.Namespace:
    common = {"lr": 0.1, "rank": 0, "world_size": 2, "gpu": None, "given": ["lr"]}
    return argparse.Namespace(**common, **values)


def test_each_start_adds_an_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(record.sys, "argv", ["main.py", "--coco_path", "my data"])
    record_start(tmp_path, options(names=["a"]), lambda: "d1")
    record_start(tmp_path, options(), lambda: "d2")
    first, second = json.loads((tmp_path / "args.json").read_text())["starts"]
    assert first["options"] == {"lr": 0.1, "names": ["a"]} and second["options"] == {"lr": 0.1}
    assert first["command"] == "main.py --coco_path 'my data'" and first["processes"] == 2
    assert first["versions"] == {
        "detr-irpe": VERSION, "python": platform.python_version(),
        "torch": torch.__version__, "torchvision": torchvision.__version__,
    }  # fmt: skip
    assert (first["validation_data"], second["validation_data"]) == ("d1", "d2")
    compiled = any((ROOT / "rpe_ops").glob("_C*.so"))
    assert first["operators"] == ("compiled" if compiled else "PyTorch's")
    assert first["threads"] == torch.get_num_threads() and first["device"] == "cpu"
    assert first["date"].endswith("+00:00") and first["cpu"]
    assert [path.name for path in tmp_path.iterdir()] == ["args.json"]
    record_start(None, options(), lambda: 1 / 0)  # nowhere


@pytest.mark.parametrize(
    "content",
    ["", "{", "[" * 100_000, "[]", '{"starts": 3}', '{"starts": [1, {"options": []}]}', "\0\xff"],
)
def test_a_damaged_file_is_kept_and_begun_anew(tmp_path, content, capsys):
    (tmp_path / "args.json").write_text(content, encoding="latin-1")
    assert read_starts(tmp_path) == []
    record_start(tmp_path, options(), lambda: "")
    assert len(read_starts(tmp_path)) == 1
    assert (tmp_path / "damaged_args_1.json").read_text(encoding="latin-1") == content
    assert "args.json could not be read; it is damaged_args_1.json now" in capsys.readouterr().out
    (tmp_path / "args.json").write_text("[")
    record_start(tmp_path, options(), lambda: "")
    assert (tmp_path / "damaged_args_2.json").read_text() == "["


def test_the_commit_and_whether_files_were_changed(tmp_path):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert git_state(tmp_path / "nowhere") is None
    git("init")
    assert git_state(tmp_path) is None  # no commit yet
    (tmp_path / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "-m", "one")
    (tmp_path / "new.txt").write_text("of the user")
    assert git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path)["changed"] is True


@pytest.mark.slow
def test_a_run_records_its_starts_and_says_when_it_keeps_nothing(tmp_path):
    data = make_shapes(tmp_path / "data", "--train", "4", "--val", "2", "--size", "80")
    command = [MAIN, *TINY_RUN, "--coco_path", data, "--batch_size", "2"]
    first = run_ok(*command, "--epochs", "1").stdout.splitlines()[0]
    assert first == "no --output_dir: nothing of this run will be kept"
    kept = [*command, "--output_dir", tmp_path / "out"]
    assert "no --output_dir" not in run_ok(*kept, "--epochs", "1").stdout
    resumed = [*kept, "--resume", "auto", "--epochs"]
    assert "resumed after epoch 1/2" in run_ok(*resumed, "2").stdout
    run_ok(*resumed, "2")  # nothing to do
    starts = read_starts(tmp_path / "out")
    assert [start["options"]["epochs"] for start in starts] == [1, 2]
    assert len({start["validation_data"] for start in starts}) == 1
    run_ok(*kept, "--epochs", "1")  # a new run moves all of the earlier one aside
    assert len(read_starts(tmp_path / "out")) == 1
    assert len(read_starts(tmp_path / "out" / "earlier_run_1")) == 2
