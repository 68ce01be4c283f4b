"""Multiply-accumulates of the models that the options of a training describe."""

import argparse
import importlib
from typing import NamedTuple

import torch
from torch import nn

from tools.model_cost.counts import count_products
from tools.model_cost.subjects import DetectorSubject, Size, build_without_memory
from util.cli import with_options


class ImageCost(NamedTuple):
    """What a forward pass of one image costs: its size in pixels, and multiply-accumulates."""

    height: int
    width: int
    multiply_accumulates: int


def detector_cost(args: argparse.Namespace) -> ImageCost:
    """Count those of a detector, of an image of --image_size whose longer side is a third longer.

    Args:
        args: all options of main.py.

    Raises:
        UserError: the model takes no image of this size.
    """
    subject = DetectorSubject(args)
    return _cost(build_without_memory(subject), subject.default_size)


def classifier_cost(args: argparse.Namespace) -> ImageCost:
    """Count those of a classifier, of an image of --input-size.

    Args:
        args: all options of classification/main.py.

    Raises:
        UserError: there is no such model.
        RuntimeError: it is one of timm's that cannot be computed by shapes alone.
    """
    build_model = importlib.import_module("classification.run").build_model
    with torch.device("meta"):
        # As if weights were to follow: none are downloaded.
        model = build_model(with_options(args, resume="weights that are not read"))
    return _cost(model, (args.input_size, args.input_size))


def _cost(model: nn.Module, size: Size) -> ImageCost:
    products = count_products(model, (), torch.zeros(1, 3, *size, device="meta"))
    return ImageCost(*size, sum(products.values()))
