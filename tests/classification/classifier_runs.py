"""Small runs of classification/main.py in this process, on drawn images.

Tests of Slurm take TINY and the images from here, also where timm is missing.
"""

import argparse
import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.commands import ROOT
from util.cli import OneLineParser, options_given

COMMAND = str(ROOT / "classification" / "main.py")
CLASSES = ("blue", "green", "red")
TINY = [
    "--model", "deit_tiny_patch16_224", "--enc_rpe2d", "rpe-1.9-product-ctx-1-k",
    "--model-kwargs", "embed_dim=16", "depth=2", "num_heads=2", "patch_size=4",
    "--input-size", "16", "--batch-size", "4", "--num_workers", "0", "--device", "cpu",
    "--release_memory", "--warmup-epochs", "1", "--lr", "0.1",
]  # fmt: skip


def draw_classes(root: Path, train: int = 8, val: int = 5, size: int = 16) -> Path:
    """Draw images of three colours: `train` and `val` of each, `size` pixels high and wide."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for channel, name in zip((2, 1, 0), CLASSES, strict=True):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 140, (size, size, 3), dtype=np.uint8)
                pixels[..., channel] += 80
                Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return root


def parse(data: Path, *options: object) -> argparse.Namespace:
    """Parse options of a tiny run as the command does."""
    from classification.arguments import get_args_parser

    parser = OneLineParser(prog="main.py", parents=[get_args_parser()])
    words = [*TINY, "--data-path", str(data), *map(str, options)]
    args = parser.parse_args(words)
    args.given = options_given(parser, words)
    return args


def alone(args: argparse.Namespace) -> argparse.Namespace:
    """Set what a run of one process has."""
    args.rank, args.world_size, args.distributed = 0, 1, False
    return args


def run_here(data: Path, *options: object) -> None:
    """Run a tiny model in this process."""
    from classification.run import main

    main(parse(data, *options))


def signal_at_sample(monkeypatch, count: int) -> None:
    """Send SIGTERM to this process when it reads this sample, counted from 1."""
    from classification.data.loaders import Images

    read, done = Images.__getitem__, [0]

    def counted(self, key):
        done[0] += 1
        if done[0] == count:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, key)

    monkeypatch.setattr(Images, "__getitem__", counted)
