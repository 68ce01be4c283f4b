"""What the tables of hostile and broken inputs are made with."""

import hashlib
from pathlib import Path


def case(table: dict, name: str, says: str):
    """Add a function that breaks something to a table, with what the answer has to contain."""

    def add(function):
        table[name] = (function, says)
        return function

    return add


def flip(place):
    def change(content):
        content[place(content)] ^= 4

    return change


def fingerprint(*roots: Path) -> dict[str, str]:
    """Every file below, with a hash of its content."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for root in roots
        for path in sorted(root.rglob("*"))
    }
