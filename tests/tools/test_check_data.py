"""tools/check_data.py lists every error, in the words of training."""

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from PIL import Image

from tests.helpers.commands import QUIET, ROOT, run_ok
from tests.helpers.data import COCO_PATH, needs_coco, zip_folder
from tests.helpers.forks import default_signals
from tests.helpers.tool_runs import line_of, result_lines, run_tool
from tests.hostile.annotations import CASES, CUT, Case, annotation_file, error_of, write_split
from tools import check_data

TOOL = str(ROOT / "tools" / "check_data.py")
TRAIN = ["--split", "train", "--num_classes", "10"]
NOTED = [{"bbox": [30, 20, 50, 50]}, {"bbox": [5, 5, 0, 8]}, {"image_id": 99}]


def lines_of(*given, code: int) -> list[str]:
    run = run_tool(check_data, *given, "--jobs", "1")
    assert run.code == code and run.err == ""
    return result_lines(run.out)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """Write a split with all errors, a repeated image id, and things worth a note only."""
    cases = {"good": Case("", NOTED), **CASES, "twin": Case("", image={"id": 1})}
    return write_split(tmp_path_factory.mktemp("faulty"), cases), cases


def test_every_fault_is_listed_in_the_words_of_training(faulty):
    root, cases = faulty
    run = run_tool(check_data, root, *TRAIN, "--jobs", "1")
    assert run.code == 1 and run.err == ""
    *errors, beyond, empty, orphans, count = result_lines(run.out)
    wanted = [f"error: {annotation_file(root)}: image id 1 is that of 2 images, "
              "good.png and twin.png"]  # fmt: skip
    for late in (False, True):  # the file's own faults come first
        for name in CASES:
            if CASES[name].late == late:
                times = 2 if name == "repeated" else 1  # once for each annotation
                wanted += [f"error: {error_of(root, cases, name)}"] * times
    for line, start in zip(errors, wanted, strict=True):
        assert line == start or (line.startswith(start) and cases["truncated"].file == CUT)
    assert sum(line == start for line, start in zip(errors, wanted)) == len(errors) - 1
    path = annotation_file(root)
    assert beyond == (
        f"note: {path}: boxes beyond their image, which are clipped: 1, annotation 10 of image 1"
    )
    assert empty.startswith(f"note: {path}: boxes of zero width or height, which are left out: 2,")
    assert orphans.endswith(
        " annotations of no image, which are ignored: 1, annotation 12 of image 99"
    )
    assert count == f"errors: {len(errors)}, notes: 4"


def test_any_number_of_processes_says_the_same(faulty):
    said = {run_tool(check_data, faulty[0], *TRAIN, "--jobs", jobs).out for jobs in (1, 3)}
    assert len({"\n".join(result_lines(text)) for text in said}) == 1


def test_good_data_has_no_faults(shapes, tmp_path):
    said = run_ok(TOOL, shapes).stdout  # as from a command line, with a process for each core
    assert "val images  13/13" in said and result_lines(said) == ["errors: 0, notes: 0"]
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(shapes / split)
        zip_folder(tmp_path / split)
        (tmp_path / split).unlink()
    (tmp_path / "annotations").symlink_to(shapes / "annotations")
    assert lines_of(tmp_path, code=0) == ["errors: 0, notes: 0"]


@pytest.mark.slow
@needs_coco
def test_real_coco_has_no_errors():
    assert "errors: 0, notes: " in run_ok(TOOL, COCO_PATH, "--num_classes", "91").stdout


def test_notes_alone_are_no_failure_and_are_summed_up(tmp_path):
    root = write_split(tmp_path, {"a": Case("", [{"bbox": [30, 20, 50, 50]}] * 8)})
    note, count = lines_of(root, *TRAIN, code=0)
    named = ", ".join(f"{i} of image 1" for i in range(10, 15))
    assert note.endswith(f"which are clipped: 8, annotation {named} and 3 more")
    assert count == "errors: 0, notes: 8"


def test_an_object_that_scoring_never_finds_is_noted(tmp_path):
    """Many tools that write annotations count from 0."""
    root = write_split(tmp_path, {"a": Case("", [{"bbox": [30, 20, 5, 5], "id": 0}])})
    note, count = lines_of(root, *TRAIN, code=0)
    assert "never finds: number them from 1: 1, annotation 0 of image 1" in note
    assert count == "errors: 0, notes: 1"


def test_boxes_of_images_without_a_told_size_are_noted_once(tmp_path):
    image = {"height": None, "width": None}
    noted = [{"bbox": [30, 20, 50, 50]}, {"bbox": [5, 5, 0, 8]}]
    root = write_split(tmp_path, {"a": Case("", noted, image)})
    assert lines_of(root, *TRAIN, code=0)[-1] == "errors: 0, notes: 2"


def test_one_bad_split_does_not_hide_the_other(tmp_path):
    root = write_split(tmp_path, {"a": CASES["text"]})
    text, missing, count = lines_of(root, "--num_classes", "10", code=1)
    assert count == "errors: 2, notes: 0" and "not a readable image" in text
    assert missing.endswith("instances_val2017.json: no such annotation file")


def test_a_damaged_archive_is_one_error_among_those_of_the_annotations(tmp_path):
    cases = {name: CASES[name] for name in ("negative", "missing", "text")}
    root = write_split(tmp_path, cases)
    (root / "train2017.zip").write_bytes(b"PK no archive")
    negative, archive, count = lines_of(root, *TRAIN, code=1)
    assert negative == f"error: {error_of(root, cases, 'negative')}"
    assert archive.startswith(f"error: {root / 'train2017.zip'}: not a readable zip archive")
    assert count == "errors: 2, notes: 0"


def test_names_that_cannot_be_printed(tmp_path):
    """The report is one line for each fault on any terminal."""
    root = write_split(tmp_path, {"a": Case("")})
    content = json.loads(annotation_file(root).read_text())
    names = ["a\nb.png", "\ud800.png", "ä.png", "\0.png", "n" * 300 + ".png", "../a.png"]
    content["images"] = [
        {"id": i, "file_name": name} for i, name in enumerate(names, start=1)
    ]  # fmt: skip
    annotation_file(root).write_text(json.dumps(content))
    run = run_tool(check_data, root, *TRAIN, "--jobs", "1", encoding="ascii")
    *errors, count = result_lines(run.out)
    assert run.code == 1 and run.err == ""
    assert len(errors) == len(names) and count == "errors: 6, notes: 0"
    assert all(f"image {i}: " in line for i, line in enumerate(errors, start=1))


def test_mistakes_are_answered_with_a_line(tmp_path):
    assert "no such folder" in line_of(check_data, tmp_path / "nothing")
    assert "--jobs" in line_of(check_data, tmp_path, "--jobs", "0")
    assert "--split" in line_of(check_data, tmp_path, "--split", "all")


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_ctrl_c_ends_it_in_one_line(tmp_path, jobs):
    """As from a terminal: all processes of the group get the signal."""
    root = write_split(tmp_path, {"a": Case("")})
    Image.new("L", (500, 500)).save(root / "train2017" / "large.png")
    content = json.loads(annotation_file(root).read_text())
    content["images"] = [{"id": i, "file_name": "large.png"} for i in range(20_000)]
    annotation_file(root).write_text(json.dumps(content))
    terminal, its_end = pty.openpty()
    fcntl.ioctl(its_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # rows, columns
    process = subprocess.Popen(
        [sys.executable, TOOL, root, *TRAIN, "--jobs", jobs],
        start_new_session=True, stdout=subprocess.PIPE, stderr=its_end, env={**os.environ, **QUIET},
        preexec_fn=default_signals,
    )  # fmt: skip
    os.close(its_end)
    said = b""
    while b"train images" not in said:  # the bar: the work has begun
        said += os.read(terminal, 1000)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) == 130
    while b"reported" not in said:
        said += os.read(terminal, 1000)
    last = said.decode().splitlines()[-1]
    assert last == "interrupted, nothing was reported"
    assert b"Traceback" not in said and process.stdout.read() == b""
    os.close(terminal)
