"""Options of the commands that export a graph."""

import argparse
from pathlib import Path

from util.cli import whole_number

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}  # by format


def add_graph_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that call `write_verified`."""
    add = parser.add_argument
    add("--output", type=Path, help="the file to write; by default model.onnx or model.pt2")
    add("--format", choices=tuple(SUFFIXES), default="onnx",
        help="onnx, or torch: a .pt2 file for torch.export.load")  # fmt: skip
    add(
        "--normalize",
        action="store_true",
        help="let the graph normalise images, whose values are from 0 to 1",
    )
    add("--opset", type=whole_number(18), metavar="N",
        help="version of ONNX's operators; the exporter's choice by default")  # fmt: skip
    add("--force", action="store_true", help="overwrite existing files")
