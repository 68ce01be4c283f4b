"""Untrusted text on a terminal, and commands whose output streams are closed."""

import errno
import io
import os
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader

from tests.helpers.commands import QUIET, ROOT
from util.cli import run_command
from util.cli.streams import SafeStream, safe_streams
from util.errors import CommonError, UserError, one_line, printable, resource_error
from util.signals import StopSignals

FORGED = "a.jpg\nerror: all is well\x1b[2J\r\u202e\udcff\u2028"
ESCAPED = "a.jpg\\nerror: all is well\\x1b[2J\\r\\u202e\\udcff\\u2028"


def test_printable_text():
    assert printable("Größe 大きさ 🙂 a\tb\n") == "Größe 大きさ 🙂 a\tb\n"
    assert printable("\x1b]0;title\x07 \x9b31m\x7f") == "\\x1b]0;title\\x07 \\x9b31m\\x7f"
    assert one_line(FORGED) == ESCAPED == one_line(ESCAPED)
    long = one_line("head" + "\x1b" * 900_000 + "tail")
    assert len(long) == 900 and long.startswith("head\\x1b") and long.endswith("\\x1b...tail"[-4:])


class Forged(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UserError(f"images/{FORGED}: missing")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_forged_line_does_not_replace_the_error(workers):
    with pytest.raises(UserError) as error:
        list(DataLoader(Forged(), num_workers=workers))
    assert str(error.value) == f"images/{ESCAPED}: missing"
    for kind in (UserError, CommonError):
        assert str(pickle.loads(pickle.dumps(kind(FORGED)))) == ESCAPED


def printed(stream: SafeStream, inner: io.TextIOWrapper, text: str) -> bytes:
    print(text, file=stream, flush=True)
    return inner.buffer.getvalue()


def test_streams_escape_what_acts_on_terminals():
    inner = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert printed(SafeStream(inner, True), inner, "\rclass \x1b[2J").endswith(b"\\x1b[2J\n")
    assert inner.buffer.getvalue().startswith(b"\\rclass")
    inner = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert printed(SafeStream(inner, False), inner, "\rbar \r") == b"\rbar \\r\n"
    inner = io.TextIOWrapper(io.BytesIO(), encoding="ascii")  # as under LC_ALL=C
    assert printed(SafeStream(inner, True), inner, "Größe") == b"Gr\\xf6\\xdfe\n"
    inner = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert len(printed(SafeStream(inner, True), inner, "a" * 900_000)) < 30_000


def test_a_broken_pipe_is_noted_once_and_then_dropped():
    read, write = os.pipe()
    os.close(read)
    with StopSignals() as signals, os.fdopen(write, "w") as inner:
        stream = SafeStream(inner, is_output=False)
        print("lost", file=stream, flush=True)
        assert signals.received == 0  # of standard error: nobody wants to stop for that
        read, write = os.pipe()
        os.close(read)
        os.dup2(write, inner.fileno())
        os.close(write)
        stream = SafeStream(inner, is_output=True)
        for _ in range(2):
            print("lost", file=stream, flush=True)
        assert signals.received == signal.SIGPIPE
    with StopSignals() as signals:
        assert signals.received == 0


CHILD = """
import os, sys
from util.cli.streams import safe_streams
with safe_streams(), open(os.devnull) as file:
    print("out", file.fileno() > 2)
    print("err", file=sys.stderr)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full", "| true"])
def test_a_command_without_its_streams(closed):
    """In a process of its own, since Python's own streams are meant."""
    result = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "{sys.executable}" -c "$0" {closed}', CHILD],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **QUIET},
    )  # fmt: skip
    assert result.returncode == 0, result
    assert result.stdout in ("", "out True\n") and result.stderr in ("", "err\n")


def answer(error: BaseException, capsys) -> tuple[int, str]:
    def command():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_command(command)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (UserError(f"{FORGED}: missing"), f"error: {ESCAPED}: missing"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "not enough"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "not enough memory"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "--num_workers"),
        (
            PermissionError(errno.EACCES, "Permission denied", FORGED),
            f"{ESCAPED}: Permission denied",
        ),
        (OSError(errno.ENOSPC, "No space left", b"/a"), "error: /a: No space left"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), "aaa: File name too long"),
    ],
)
def test_one_line_for_each_error(error, says, capsys):
    code, line = answer(error, capsys)
    assert code == 1 and line.startswith("error: ") and says in line and line.count("\n") == 1


def test_a_mistake_of_the_program_keeps_its_traceback(capsys):
    def command():
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        run_command(command)
    assert resource_error(RuntimeError("a mistake")) is None
    assert resource_error(PermissionError(errno.EACCES, "Permission denied")) is None
    assert resource_error(FileNotFoundError(errno.ENOENT, "No such file", "a.pth")) is None


def test_the_streams_are_put_back(capsys):
    before = sys.stdout, sys.stderr
    with safe_streams():
        print("x\x1b")
    assert (sys.stdout, sys.stderr) == before and capsys.readouterr().out == "x\\x1b\n"
