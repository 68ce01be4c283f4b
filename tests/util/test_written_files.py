"""Files are written whole or not at all, also where links or other runs are in the way."""

import gc
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT
from training.log import LogFile, read_log
from training.output_dir import OutputDir
from util.errors import UserError
from util.files import atomic_write, check_output_file, new_folder


def write(path: Path, content: bytes = b"new") -> None:
    with atomic_write(path) as file:
        file.write(content)


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    folder = tmp_path / "run"
    folder.mkdir()
    for other in (outside, tmp_path / "nowhere"):
        (folder / ".checkpoint.pth.part").symlink_to(other)
        write(folder / "checkpoint.pth")
        assert [path.name for path in folder.iterdir()] == ["checkpoint.pth"]
    (folder / ".checkpoint.pth.part").hardlink_to(outside)
    write(folder / "checkpoint.pth")
    assert outside.read_bytes() == b"untouched" and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_one(tmp_path, there):
    """The file that it leads to is replaced, in its own folder."""
    (tmp_path / "disk").mkdir()
    if there:
        (tmp_path / "disk" / "real").write_bytes(b"old")
    link = tmp_path / "checkpoint.pth"
    link.symlink_to(Path("disk") / "real")
    write(link)
    assert link.is_symlink() and (tmp_path / "disk" / "real").read_bytes() == b"new"
    assert {path.name for path in tmp_path.rglob("*")} == {"checkpoint.pth", "disk", "real"}


def test_kept_checkpoints_are_files_where_the_last_one_is_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pth").symlink_to(tmp_path / "disk" / "real.pth")
    output = OutputDir(tmp_path / "run")
    output.save_training({"epoch": 0})
    output.keep_best()
    kept = (tmp_path / "run" / "checkpoint_best.pth").read_bytes()
    output.save_training({"epoch": 1})
    assert (tmp_path / "run" / "checkpoint_best.pth").read_bytes() == kept
    assert (tmp_path / "run" / "checkpoint.pth").is_symlink()


def folder(path):
    path.mkdir()
    (path / "something").touch()


def in_a_file(path):
    path.write_bytes(b"")
    return path / "x"


def nowhere(path):
    path.symlink_to(path.parent / "no" / "such")


def loop(path):
    path.symlink_to(path.name)
    (path.parent / f".{path.name}.part").mkdir()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (folder, "Is a directory"),
        (in_a_file, "Not a directory"),
        (nowhere, "No such file or directory"),
        (loop, "Is a directory"),
        (lambda path: path.with_name("a" * 300), "File name too long"),
    ],
)
def test_what_keeps_a_file_from_being_written_is_one_line(tmp_path, make, says):
    path = tmp_path / "report.html"
    path = make(path) or path
    with pytest.raises(UserError, match=rf"cannot be written \(.*{says}") as error:
        write(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError):
        LogFile(path).append({"epoch": 0})


def test_too_few_descriptors(tmp_path):
    path = tmp_path / "report.html"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    gc.collect()
    gc.disable()  # garbage may have a lower descriptor
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(Too many open files"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        gc.enable()
    assert path.read_bytes() == b"old"


def test_names_that_are_no_utf8_get_into_the_report(tmp_path):
    output = OutputDir(tmp_path)
    output.save_report("caf\udce9.pth: loaded\n")
    assert (tmp_path / "finetune.txt").read_text() == "caf\\udce9.pth: loaded\n"


def test_logs_that_are_no_files(tmp_path):
    log = tmp_path / "log.txt"
    os.mkfifo(log)
    for read in (lambda: read_log(log), lambda: LogFile(log).read(3),
                 lambda: LogFile(log).append({"epoch": 0})):  # fmt: skip
        with pytest.raises(UserError, match=r"log.txt: (is not a regular file|cannot be opened)"):
            read()
    log.unlink()
    log.symlink_to("/dev/zero")
    with pytest.raises(UserError, match="is not a regular file"):
        read_log(log)


# ---- one run at a time ----

HOLDS = """
import pathlib, sys
from training.output_dir import lock_folder
lock = lock_folder(pathlib.Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


def test_two_runs_in_a_folder(tmp_path):
    """The second one is refused until the first one ends, in whatever way."""
    rows = [{"epoch": 0, "train_loss": 1.0}]
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "locked\n"
        (tmp_path / "log.txt").write_text(json.dumps(rows[0]) + "\n")
        with pytest.raises(UserError, match=rf"process {other.pid} on .* is training into it"):
            OutputDir(tmp_path).continue_run("", -1, [])
        assert LogFile(tmp_path / "log.txt").read(9) == (rows, False)  # nothing moved
    finally:
        other.kill()
        other.communicate()
    output = OutputDir(tmp_path)
    output.continue_run(str(tmp_path / "checkpoint.pth"), 0, [])
    output.continue_run(str(tmp_path / "checkpoint.pth"), 0, [])  # the same process again


# ---- files that exist ----


def test_a_tools_file_is_not_written_over(tmp_path):
    file = tmp_path / "page.html"
    check_output_file(file, False, "--output")
    file.touch()
    check_output_file(file, True, "--output")
    with pytest.raises(UserError, match=r"page\.html: exists; choose another --output or add --fo"):
        check_output_file(file, False, "--output")
    for other in (tmp_path, tmp_path / "no" / "page.html"):
        with pytest.raises(UserError, match=f"--output {other}: not a file in a folder that exi"):
            check_output_file(other, True, "--output")


def test_a_new_folder_is_complete_or_not_there(tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # empty
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old").touch()
    with pytest.raises(KeyboardInterrupt), new_folder(out) as part:
        part.mkdir()
        raise KeyboardInterrupt
    assert list(out.iterdir()) == []
    with new_folder(out) as part:
        part.mkdir()
        (part / "new").touch()
    assert [path.name for path in out.iterdir()] == ["new"]
    for full in (out, out / "new"):
        with (
            pytest.raises(UserError, match="exists and is not empty; choose another"),
            new_folder(full),
        ):
            pass
    refused = pytest.raises(UserError, match=r"/proc/out: cannot be written")
    with refused, new_folder(Path("/proc/out")) as part:
        part.mkdir()
