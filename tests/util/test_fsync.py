"""Files appear under their names only when their whole content is on disk."""

import os
from pathlib import Path

import pytest
import torch

from training.log import LogFile
from training.output_dir import OutputDir
from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.files import atomic_write, staging_folder


@pytest.fixture
def disk(monkeypatch):
    """Record what is asked of the disk, in order: ("sync", name, size) and ("rename", from, to)."""
    asked = []
    fsync, rename = os.fsync, os.replace

    def name_of(descriptor: int) -> str:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}")).name

    def spy_on_fsync(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
        asked.append(("sync", name_of(descriptor), "folder" if folder else size))
        fsync(descriptor)

    def spy_on_rename(source, target, **options) -> None:
        asked.append(("rename", Path(source).name, Path(target).name))
        rename(source, target, **options)

    monkeypatch.setattr(os, "fsync", spy_on_fsync)
    monkeypatch.setattr(os, "replace", spy_on_rename)
    return asked


pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


def test_a_file_is_on_disk_before_it_gets_its_name_and_the_name_is_after(disk, tmp_path):
    with atomic_write(tmp_path / "a") as file:
        file.write(b"12345")
        assert disk == []
    (sync, part, size), (rename, source, target), folder = disk
    assert (sync, size) == ("sync", 5)
    assert (rename, source, target) == ("rename", part, "a")
    assert folder == ("sync", tmp_path.name, "folder")


def test_files_in_a_folder_are_on_disk_before_they_get_their_names(disk, tmp_path):
    with staging_folder(tmp_path) as part:
        (part / "a").write_bytes(b"12345")
        (part / "b").write_bytes(b"123")
    for name, size in (("a", 5), ("b", 3)):
        assert disk.index(("sync", name, size)) < disk.index(("rename", name, name))
    assert disk[-1] == ("sync", tmp_path.name, "folder") and len(disk) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_an_error_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a") as file:
        file.write(b"new, and not whole")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_line_of_the_log_is_on_disk(disk, tmp_path):
    log = LogFile(tmp_path / "log.txt")
    log.append({"epoch": 0})
    log.append({"epoch": 1})
    assert [step[:2] for step in disk if step[1] == "log.txt"] == [("sync", "log.txt")] * 2
    assert disk[-1][2] == len('{"epoch": 0}\n') * 2


def test_the_best_checkpoint_stays_until_its_successor_is_there(disk, tmp_path, monkeypatch):
    output = OutputDir(tmp_path)
    output.save_training({"epoch": 1})
    output.keep_best()
    output.save_training({"epoch": 2})
    best = tmp_path / "checkpoint_best.pth"

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("link", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, refuse)
            if name == "link":  # and no room for a copy
                patch.setattr("shutil.copy2", refuse)
            with pytest.raises(UserError, match=r"checkpoint_best\.pth: cannot be written"):
                output.keep_best()
        assert load_checkpoint(str(best)) == {"epoch": 1}, name
    output.keep_best()
    assert load_checkpoint(str(best)) == {"epoch": 2}
    output.save_training({"epoch": 3, "weights": torch.ones(2)})
    assert load_checkpoint(str(best)) == {"epoch": 2}  # of its own, not a name of the newest
    output.keep_checkpoint(3)
    assert load_checkpoint(str(tmp_path / "checkpoint0003.pth"))["epoch"] == 3
