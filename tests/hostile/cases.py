"""Helpers for the tables of hostile and broken inputs."""

import hashlib
from pathlib import Path


def case(table: dict, name: str, says: str):
    """Add a function that breaks something to a table, with a pattern of the error message."""

    def add(function):
        table[name] = (function, says)
        return function

    return add


def flip(place):
    def change(content):
        content[place(content)] ^= 4

    return change


def fingerprint(*roots: Path) -> dict[str, str]:
    """Return the hash of every file below these folders."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for root in roots
        for path in sorted(root.rglob("*"))
    }
