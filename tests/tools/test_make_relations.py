"""Drawn images whose classes are relations of shapes."""

import hashlib
import math
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.helpers.commands import error_line
from tests.helpers.tool_runs import line_of, run_tool
from tools import make_relations as tool

CLASSES = ["above", "below", "beside", "aslant"]
SIDES = ["above", "left_of", "below", "right_of"]
SMALL = ("--train", "2", "--val", "1", "--size", "24")


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


def relation_of(disc, square, names) -> str:
    """Return the name of the direction to a disc, in one of eight sectors of a circle."""
    x, y = disc - square
    eighth = round(math.degrees(math.atan2(y, x)) / 45) % 8  # from the right by the bottom
    if eighth % 2:
        return "aslant"
    name = ("right_of", "below", "left_of", "above")[eighth // 2]
    return name if name in names else "beside"


@pytest.mark.parametrize(
    ("pairs", "lone", "size", "names", "options", "reach"),
    [
        (1, 0, 48, SIDES, "", 3.3 * 0.073),
        (2, 4, 30, CLASSES, "", 3.3 * 0.073),
        (1, 4, 48, CLASSES, "", 3.3 * 0.073),
        (2, 3, 64, SIDES, "", 3.3 * 0.073),
        (4, 6, 96, SIDES, "--radius 0.04", 3.3 * 0.04),
        (3, 2, 96, CLASSES, "--radius 0.05 --distance 3.5", 4.5 * 0.05),
    ],
)
def test_pixels_show_the_relation_of_the_class_and_no_other(
    tmp_path, pairs, lone, size, names, options, reach
):
    """A pair's shapes are at most 0.6 radii farther apart than at least, others at least 1.4.

    Args:
        reach: between the two, and the least distance of pairs 1 less; the image's side is 1.
    """
    options = ("--pairs", pairs, "--lone", lone, "--size", size, *options.split(),
               "--relations", *names)  # fmt: skip
    drawn(tmp_path / "out", "--train", 1, "--val", 12, *options)
    paths = sorted((tmp_path / "out" / "val").rglob("*.png"))
    assert len(paths) == 12 * len(names)
    lone_discs = set()
    for path in paths:
        discs, squares = shapes_in(path)
        assert len(discs) + len(squares) == 2 * pairs + lone, path
        near = [(d, s) for d in discs for s in squares if np.abs(d - s).max() < reach * size]
        assert [relation_of(*pair, names) for pair in near] == [path.parent.name] * pairs, path
        lone_discs.add(len(discs) - pairs)
    assert lone_discs == {0} if not lone else {0, lone} <= lone_discs


def test_all_steps_of_a_relation_occur(tmp_path):
    """Beside is left and right, aslant is each of the four corners."""
    drawn(tmp_path / "out", "--train", 1, "--val", 40, "--pairs", 1, "--lone", 0, "--size", 48)
    for name, count in (("beside", 2), ("aslant", 4)):
        signs = Counter()
        for path in (tmp_path / "out" / "val" / name).iterdir():
            (disc,), (square,) = shapes_in(path)
            signs[tuple(((disc - square) > (2 if name == "aslant" else 5)).tolist())] += 1
        assert len(signs) == count and min(signs.values()) >= 3


def test_pairs_lie_everywhere_in_each_class(tmp_path):
    drawn(tmp_path / "out", "--train", 1, "--val", 100, "--size", 48, "--pairs", 1, "--lone", 0)
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
        assert (image.size, image.mode) == ((24, 24), "RGB")
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
    assert "--size: must be a whole number of at least 24" in line_of(tool, "new", "--size", 23)
    assert "no room" in line_of(tool, tmp_path / "new", *SMALL, "--pairs", 8)
    assert "twice" in line_of(tool, "new", "--relations", "above", "below", "above")
    assert "leave out" in line_of(tool, "new", "--relations", "above", "beside", "left_of")
    assert not (tmp_path / "new").exists()
