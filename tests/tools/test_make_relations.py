"""Drawn images whose classes are relations of shapes."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import error_line
from tests.helpers.tool_runs import line_of, run_tool
from tools import make_relations as tool

CLASSES = ["above", "below", "left_of", "right_of"]
SMALL = ("--train", "2", "--val", "1", "--size", "32")


def contents(folder) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def drawn(out, *options: object) -> dict[str, str]:
    assert run_tool(tool, out, *options).code == 0
    return contents(out)


def blobs(mask: np.ndarray) -> list[np.ndarray]:
    """Return the middles (x, y) of the connected parts of a mask (height, width)."""
    left, found = {(int(y), int(x)) for y, x in np.argwhere(mask)}, []
    while left:
        waiting, part = [left.pop()], []
        while waiting:
            y, x = waiting.pop()
            part.append((x, y))
            near = {(y + dy, x + dx) for dy, dx in ((0, 1), (0, -1), (1, 0), (-1, 0))} & left
            left -= near
            waiting += near
        found.append(np.mean(part, axis=0))
    return found


def shapes_in(path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the middles of the discs, which are more red than blue, and of the squares."""
    with Image.open(path) as image:
        red, _, blue = np.moveaxis(np.asarray(image, dtype=int), -1, 0)
    return blobs(red - blue > 60), blobs(blue - red > 60)


def relations_in(discs, squares, reach: float) -> list[str]:
    """Return the relation of each disc and square that are nearer than `reach` pixels."""
    found = []
    for disc in discs:
        for square in squares:
            x, y = disc - square
            if max(abs(x), abs(y)) < reach:
                across, along = ("left_of", "right_of")[int(x > 0)], ("above", "below")[int(y > 0)]
                found.append(across if abs(x) > abs(y) else along)
    return found


@pytest.mark.parametrize(("pairs", "lone", "size"), [(1, 0, 48), (1, 4, 48), (2, 3, 64)])
def test_pixels_show_the_relation_of_the_class_and_no_other(tmp_path, pairs, lone, size):
    options = ("--train", 1, "--val", 12, "--pairs", pairs, "--lone", lone, "--size", size)
    drawn(tmp_path / "out", *options)
    paths = sorted((tmp_path / "out" / "val").rglob("*.png"))
    assert len(paths) == 12 * len(CLASSES)
    lone_discs = set()
    for path in paths:
        discs, squares = shapes_in(path)
        assert len(discs) + len(squares) == 2 * pairs + lone, path
        # A pair's shapes are 2.9 radii apart at most, others 3.7; a radius is 0.073 of the size.
        assert relations_in(discs, squares, 3.3 * 0.073 * size) == [path.parent.name] * pairs, path
        lone_discs.add(len(discs) - pairs)
    assert lone_discs == {0} if not lone else {0, lone} <= lone_discs


def test_pairs_lie_everywhere_in_each_class(tmp_path):
    drawn(tmp_path / "out", "--train", 1, "--val", 100, "--lone", 0)
    for name in CLASSES:
        places = [shapes_in(path) for path in (tmp_path / "out" / "val" / name).iterdir()]
        middles = np.array([(discs[0] + squares[0]) / 2 for discs, squares in places])
        assert (middles.min(0) < 12).all() and (middles.max(0) > 35).all()
        assert np.abs(middles.mean(0) - 23.5).max() < 5


def test_files_are_those_of_imagenets_layout(tmp_path):
    files = drawn(tmp_path / "out", *SMALL)
    train = {f"train/{name}/{number:06}.png" for name in CLASSES for number in (1, 2)}
    assert set(files) == train | {f"val/{name}/000001.png" for name in CLASSES}
    assert len(set(files.values())) == len(files)  # no image twice
    with Image.open(tmp_path / "out" / "train" / "above" / "000002.png") as image:
        assert (image.size, image.mode) == ((32, 32), "RGB")
    assert not (tmp_path / ".out.part").exists()


def test_bytes_depend_on_options_and_seed_alone(tmp_path):
    first = drawn(tmp_path / "first", *SMALL)
    (tmp_path / "again").mkdir()  # an empty folder is one to fill
    assert drawn(tmp_path / "again", *SMALL) == first
    more = drawn(tmp_path / "more", *SMALL, "--train", 3)
    assert more.items() > first.items()
    other = drawn(tmp_path / "other", *SMALL, "--seed", 1)
    assert not set(other.values()) & set(first.values())


def test_errors_are_one_line(tmp_path):
    out = tmp_path / "out"
    first = drawn(out, *SMALL)
    assert "not empty" in error_line("tools/make_relations.py", out)
    assert contents(out) == first
    file = tmp_path / "file"
    file.write_text("mine")
    assert "exists" in line_of(tool, file) and file.read_text() == "mine"
    assert "--size: must be a whole number of at least 32" in line_of(tool, "new", "--size", 31)
    assert "no room" in line_of(tool, tmp_path / "new", *SMALL, "--pairs", 8)
    assert not (tmp_path / "new").exists()
