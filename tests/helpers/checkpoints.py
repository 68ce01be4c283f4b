"""Checkpoints of untrained models, and a comparison of detections."""

import torch

from models import build_model
from tests.helpers.commands import TINY_RUN

NAMES = {1: "disc", 2: "square", 3: "triangle", 4: "star", 5: "plus"}


def write_checkpoint(path, args, *options, **content):
    """Save an untrained model; scores of its detections are about 1 / 92."""
    torch.manual_seed(0)
    parsed = args(*TINY_RUN, *options)
    parsed.num_classes = parsed.num_classes or 91  # a run saves the number that it used
    model, _, _ = build_model(parsed)
    torch.save({"model": model.state_dict(), "args": parsed, "classes": NAMES, **content}, path)
    return path


def assert_same_detections(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name == "names":
            assert value == other[name]
        else:
            torch.testing.assert_close(value, other[name], atol=1e-4, rtol=1e-4)
