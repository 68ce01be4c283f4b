"""Checkpoints of tiny transformers in which everything counts, and drawn images."""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import nn

from classification import DistilledVisionTransformer, VisionTransformer
from models.rpe_attention.enc_rpe2d import parse_rpe_string

CLASSES = ["circle", "Würfel", "star", "cross", "moon"]
QKV = "rpe-2.0-product-ctx-1-qkv"
TINY = {
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
}


def tiny_model(enc_rpe2d=QKV, distilled=False, seed=0, **options):
    torch.manual_seed(seed)
    kind = DistilledVisionTransformer if distilled else VisionTransformer
    config = parse_rpe_string(enc_rpe2d, skip=1 + distilled)
    given = {**TINY, "num_classes": len(CLASSES), **options}
    model = kind(rpe_config=config, **given).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=1.0 if "lookup_table" in name else 0.3)
    return model


def write_checkpoint(path, model, enc_rpe2d=QKV, args=None, **content):
    """Save a model as main.py does; `content` are further entries, None for leaving one out."""
    saved = {"model": "deit_tiny_patch16_224", "enc_rpe2d": enc_rpe2d, **(args or {})}
    saved.setdefault("input_size", model.patch_embed.img_size[0])
    entries = {
        "model": model.state_dict(), "args": argparse.Namespace(**saved), "classes": CLASSES,
        "epoch": 3, **content,
    }  # fmt: skip
    torch.save({name: value for name, value in entries.items() if value is not None}, path)
    return path


def drawn(seed=0, height=60, width=48):
    """A picture of a colour gradient with a box on it."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([rows * 255 / height, columns * 255 / width, 0 * rows + 90], -1)
    top, left = random.integers(0, height // 2), random.integers(0, width // 2)
    pixels[top : top + height // 3, left : left + width // 3] = random.integers(0, 256, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def write_images(folder, count=3):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        drawn(i).save(path)
    return paths
