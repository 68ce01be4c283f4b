"""Broken surroundings of a run: each gets one line, and nothing outside of a folder is touched.

The table of what was said is printed at the end of the tests.
"""

import re
import subprocess

import pytest
import torch

from arguments import get_args_parser
from tests.helpers.commands import answer_of_main
from tests.hostile.cases import fingerprint
from tests.hostile.runs import (
    ANSWERS,
    DOWNLOADS,
    LAUNCHERS,
    OPTIONS,
    OUTPUTS,
    RESOURCES,
    STOPS,
    port_in_use,
)
from training.output_dir import OutputDir
from util import distributed as dist
from util import launchers
from util.cli import OneLineParser, run_command
from util.download import fetch
from util.errors import UserError
from util.signals import Stopped

LAUNCHED = {
    "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}  # fmt: skip


def files_of(folder) -> dict[str, str]:
    return {path: content for path, content in fingerprint(folder).items() if content}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher(name, check, monkeypatch):
    variables, options, says = LAUNCHERS[name]
    monkeypatch.setattr(launchers, "RESOLVE_S", 0)
    with port_in_use() as used:
        for variable, value in (LAUNCHED | variables).items():
            if value is None:
                monkeypatch.delenv(variable, raising=False)
            else:
                value = str(used.getsockname()[1]) if value == "in use" else value
                monkeypatch.setenv(variable, value)
        args = get_args_parser().parse_args(["--device", "cpu", *options])
        with pytest.raises(UserError) as error:
            launchers.init_env_from_srun()
            dist.init_distributed_mode(args, dist.pick_device(args.device))
    assert not torch.distributed.is_initialized()
    check(name, says, f"error: {error.value}")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option(name, check, capsys):
    options, says = OPTIONS[name]
    parser = OneLineParser(prog="main.py", parents=[get_args_parser()])
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(list(map(str, options)))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and line.isprintable()
    check(name, says, line)


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_folder(name, check, tmp_path):
    write, says = OUTPUTS[name]
    out = tmp_path / "out"
    wanted = write(out) or out
    before = files_of(tmp_path)
    try:
        with pytest.raises(UserError) as error:
            OutputDir(wanted).save_training({"model": torch.zeros(1_000_000)})
        if not out.is_mount():
            assert files_of(tmp_path) == before
    finally:
        if out.is_mount():
            subprocess.run(["umount", out], check=True)
    check(name, says, f"error: {error.value}")


@pytest.mark.parametrize("name", DOWNLOADS)
def test_a_download(name, check, server, tmp_path):
    answer, path, says = DOWNLOADS[name]
    if answer is not None:
        content = ANSWERS.get(answer, answer).encode()
        server.raw |= {"a.pth": [content], "a-00000000.pth": [content]}
    with pytest.raises(UserError) as error:
        fetch(server.url + path)
    line = f"error: {error.value}"
    assert line.isprintable() and len(line) < 1000
    assert [found for found in (tmp_path / "cache").rglob("*") if found.is_file()] == []
    check(name, says, re.sub(r"localhost:\d+", "localhost", line))


@pytest.mark.parametrize("name", [*RESOURCES, *STOPS])
def test_a_lack_and_an_end(name, check, capsys):
    error, says = (RESOURCES | STOPS)[name]
    if name in STOPS:
        error = Stopped(error, saved=True)

    def command():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(command)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == (75 if line.startswith("stopped") else 1)
    check(name, says, line)


# ---- a handful through the whole program ----


def test_a_rank_that_is_text(check, monkeypatch):
    monkeypatch.setenv("RANK", "abc")
    monkeypatch.setenv("WORLD_SIZE", "2")
    check("main.py: RANK is text", "RANK is 'abc'", answer_of_main())


def test_a_checkpoint_that_cannot_be_replaced(place, check, tmp_path):
    """A folder takes its place after the run has checked its output folder."""
    (tmp_path / "out" / ".checkpoint.pth.part").mkdir(parents=True)
    before = fingerprint(place)
    line = answer_of_main(
        "--coco_path", place / "data", "--epochs", "1", "--output_dir", tmp_path / "out"
    )
    assert fingerprint(place) == before
    check("main.py: checkpoint.pth cannot be replaced", "checkpoint.pth: cannot be written", line)


def test_sizes_that_no_memory_holds(place, check):
    line = answer_of_main("--coco_path", place / "data", "--num_queries", 10**15)
    check("main.py: --num_queries 10^15", "--num_queries", line)
