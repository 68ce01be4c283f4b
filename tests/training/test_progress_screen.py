"""What a terminal shows of a run: one bar that fits, and messages on lines of their own."""

import os
import re
import sys

import pytest

from tests.helpers.commands import MAIN, ROOT, TINY_RUN
from tests.helpers.data import make_shapes
from tests.helpers.runs import read_log
from tests.training.terminal import Screen, open_terminal, read_all, run_in_terminal
from training.progress.bar import progress
from util.cli.streams import safe_streams
from util.signals import write_stderr

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo terminal")
BAR = r"\|[█▉▊▋▌▍▎▏ ]{5,}\|"
LOSSES = r"loss \S+ ce \S+ box \S+ giou \S+"


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "few"
    return make_shapes(out, "--train", "8", "--val", "4", "--size", "80")


def documented(columns: int) -> list[str]:
    """Return the lines of the screen of this width in docs/training.md."""
    page = (ROOT / "docs" / "training.md").read_text()
    return re.search(rf"at {columns}[^`]*```\n(.*?)\n```", page, re.S | re.I)[1].split("\n")


def form_of(line: str) -> str:
    """Replace what differs from run to run: bars, numbers, and "-" for no number."""
    line = re.sub(BAR, "|bar|", line.rstrip())
    return re.sub(r"(\d+m)?\d[\d.,]*(e-?\d+)?|(?<= )-(?= |$)", "0", line)


@pytest.mark.parametrize("columns", [80, 120])
def test_a_run_fits_its_terminal(few, columns, tmp_path):
    """No words cut, no bar left behind, nothing glued to it; epochs are counted from 1."""
    output = run_in_terminal(
        columns, MAIN, *TINY_RUN, "--coco_path", few, "--epochs", "2", "--lr_drop", "1",
        "--checkpoint_every", "0.0001", "--output_dir", tmp_path,
    )  # fmt: skip
    screen = Screen(output, columns)
    assert screen.wrapped == []
    rate = r" lr \S+" if columns == 120 else ""
    for label in ("epoch 1/2", "epoch 2/2", "eval 1/2"):
        shown = rf"{label} {BAR} run \d+% \S+ left  {LOSSES}" + rate * label.startswith("epoch")
        assert any(re.match(shown, line) for line in screen.drawn), (label, screen.drawn)

    scores = " ".join(rf"{name} (\d\.\d{{3}}|-)" for name in ("AP", "AP50", "AP75", "S", "M", "L"))
    for epoch in (1, 2):
        trained = rf"epoch {epoch}/2  4/4  {LOSSES} lr \S+ error \d+%.*"
        saved = rf"saved after (step [1-4] of )?epoch {epoch}/2 in .* s"
        for line, times in ((trained, 1), (saved, 4), (rf"epoch {epoch}/2  boxes  {scores}", 1)):
            assert sum(bool(re.fullmatch(line, shown)) for shown in screen.lines) == times, line
    assert not any(re.search(BAR, line) for line in screen.lines)
    forms = {form_of(line) for line in (*screen.lines, *screen.drawn)}
    for line in documented(columns):
        assert len(line) <= columns and form_of(line) in forms, line
    assert sum("Average Precision" in line for line in screen.lines) == 6  # at the end alone
    aps = [row["test_coco_eval_bbox"][0] for row in read_log(tmp_path)]
    best = f"AP of boxes {max(aps):.4f} of epoch {aps.index(max(aps)) + 1}/2"
    assert screen.lines.count(f"the best evaluation: {best}") == 1


def shown_by(columns: int, act) -> Screen:
    """Call `act` with standard streams that are a terminal of its own; returns what is shown."""
    leader, follower = open_terminal(columns)
    before = sys.stdout, sys.stderr, os.dup(2)
    os.dup2(follower, 2)  # of what a signal's handler writes
    terminal = os.fdopen(follower, "w", encoding="utf-8")
    sys.stdout = sys.stderr = terminal
    try:
        with safe_streams():
            act()
    finally:
        sys.stdout, sys.stderr, stderr = before
        os.dup2(stderr, 2)
        os.close(stderr)
        terminal.close()
    return Screen(read_all(leader), columns)


def test_messages_take_the_place_of_the_bar():
    """In parts, of several lines, on stdout and stderr, from handlers of signals and forks."""

    def act():
        for i in progress(range(5), "images", lambda: ["x" * 100, "loss 1"]):
            if i == 1:
                print("one", "line", 5)
                print("two\nlines", file=sys.stderr)
            if i == 2:
                sys.stdout.write("be")
                sys.stdout.write("gun\n")
                write_stderr("SIGTERM: this run will stop")
            if i == 3 and (child := os.fork()) == 0:
                print("of a worker", flush=True)
                os._exit(0)
            elif i == 3:
                os.waitpid(child, 0)
        print("after")

    screen = shown_by(40, act)
    assert screen.wrapped == [] and any(" | " in line and "loss 1" in line for line in screen.drawn)
    lines = [re.sub(r"data \d+%", "data 0%", line) for line in screen.lines]
    assert lines == [
        "one line 5", "two", "lines", "begun", "SIGTERM: this run will stop", "of a worker",
        "images  5/5  loss 1  data 0%", "after", "",
    ]  # fmt: skip
