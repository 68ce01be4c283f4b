"""A terminal: command lines that run in one, and what it shows."""

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from tests.helpers.commands import QUIET, ROOT


class Screen:
    """Lines as a terminal shows them: of carriage returns, newlines, and "clear to the line's end".

    Attributes:
        lines: the text of all lines, the last one is where the cursor is.
        drawn: what each line held whenever the cursor went back to its begin.
        wrapped: lines that were longer than the terminal, up to where they were cut.
    """

    def __init__(self, output: bytes, columns: int):
        self.lines, self.drawn, self.wrapped = [""], [], []
        column = 0
        for piece in re.findall(r"\x1b\[K|\r|\n|[^\x1b\r\n]", output.decode()):
            line = self.lines[-1]
            if piece == "\x1b[K":
                self.lines[-1] = line[:column]
            elif piece == "\n":
                self.lines.append("")
                column = 0
            elif piece == "\r":
                self.drawn.append(line)
                column = 0
            else:
                if column == columns:
                    self.wrapped.append(line)
                    self.lines.append("")
                    line, column = "", 0
                line = line.ljust(column)
                self.lines[-1] = line[:column] + piece + line[column + 1 :]
                column += 1
        self.lines = [line.rstrip() for line in self.lines]


def open_terminal(columns: int) -> tuple[int, int]:
    """Return the descriptors of both ends of a pseudo terminal; programs write to the second."""
    import fcntl
    import pty
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("4H", 50, columns, 0, 0))
    return leader, follower


def read_all(leader: int) -> bytes:
    """Return what was written to a terminal whose other end is closed, or will be."""
    output = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:  # Linux' way to say that it is closed
            piece = b""
        if not piece:
            os.close(leader)
            return output
        output += piece


def run_in_terminal(columns: int, *command: str | Path) -> bytes:
    """Run a Python command line that must succeed; returns what it wrote to its terminal."""
    leader, follower = open_terminal(columns)
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=ROOT, env={**os.environ, **QUIET},
        stdin=subprocess.DEVNULL, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    output = read_all(leader)
    assert process.wait(60) == 0, output.decode()
    return output
