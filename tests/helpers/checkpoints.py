"""Checkpoints of models that are not trained."""

import torch

from models import build_model
from tests.helpers.commands import TINY_RUN

NAMES = {1: "disc", 2: "square", 3: "triangle", 4: "star", 5: "plus"}


def write_checkpoint(path, args, *options, **content):
    """Of a model that is not trained; its scores are about 1 / 92."""
    torch.manual_seed(0)
    parsed = args(*TINY_RUN, *options)
    model, _, _ = build_model(parsed)
    torch.save({"model": model.state_dict(), "args": parsed, "classes": NAMES, **content}, path)
    return path
