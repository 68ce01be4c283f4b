"""Argparse types of the commands that show RPE."""

import argparse

from util.cli import number, whole_number

from .token_grid import Point


def numbers(text: str) -> list[int]:
    """Parse a list of whole numbers, such as 0,2, without repetitions."""
    return list(dict.fromkeys(whole_number(0)(part) for part in text.split(",")))


def heads(text: str) -> str | list[int]:
    """Parse --heads."""
    return text if text in ("mean", "all") else numbers(text)


def point(text: str) -> Point:
    """Parse --point."""
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"must be X,Y in pixels of the image, is {text!r}")
    return number(0)(parts[0]), number(0)(parts[1])
