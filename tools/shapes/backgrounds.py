"""Draw backgrounds: plain textures, or patterns that are categories of stuff.

Each pattern has a typical hue, as grass and sky do.
"""

import colorsys
import math

import numpy as np
from PIL import Image

PATTERNS = ("stripes", "checks", "dots")
HUES = {"stripes": 0, "checks": 1 / 3, "dots": 2 / 3}
HUE_DEVIATION = 0.08
TWO_PATTERNS_SHARE = 0.3  # of images
PLAIN_PART_SHARE = 0.1


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) float: two colours mixed by smooth noise, plus fine grain."""
    colours = rng.uniform(0, 255, (2, 3))
    mix = smooth_noise(rng, height, width)
    return colours[0] * mix + colours[1] * (1 - mix) + grain(rng, height, width)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return (height, width, 1) float, about 0 to 1."""
    cells = rng.integers(2, 9)
    coarse = Image.fromarray(rng.uniform(0, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]


def grain(rng: np.random.Generator, height: int, width: int, most: float = 12) -> np.ndarray:
    """Return noise (height, width, 1) with a standard deviation from 2 to `most`."""
    return rng.normal(0, rng.uniform(2, most), (height, width, 1))


def plain_background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `patterned_background` does, without a pattern."""
    return texture(rng, height, width), np.zeros((height, width), np.int64)


def patterned_background(
    rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one pattern, or two beside each other; on some images a part is plain.

    Returns:
        (height, width, 3) float, the colours; (height, width) int64, the pattern's place in
        PATTERNS, from 1 on, or 0 for none.
    """
    first, second = (1 + rng.permutation(len(PATTERNS))[:2]).tolist()
    canvas = pattern(PATTERNS[first - 1], rng, height, width)
    kinds = np.full((height, width), first)
    if rng.uniform() < TWO_PATTERNS_SHARE:
        where = part(rng, height, width, rng.uniform(0.3, 0.7))
        canvas[where] = pattern(PATTERNS[second - 1], rng, height, width)[where]
        kinds[where] = second
    if rng.uniform() < PLAIN_PART_SHARE:
        where = part(rng, height, width, rng.uniform(0.1, 0.35))
        canvas[where] = texture(rng, height, width)[where]
        kinds[where] = 0
    return canvas, kinds


def pattern(name: str, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return (height, width, 3) float: a pattern of two colours, unevenly lit, plus fine grain."""
    period = rng.uniform(0.1, 0.22)
    u, v = (side / period + rng.uniform() for side in turned(rng, height, width))
    level = {
        "stripes": lambda: np.sin(2 * math.pi * u),
        "checks": lambda: 2 * np.sin(2 * math.pi * u) * np.sin(2 * math.pi * v),
        "dots": lambda: 4 * (rng.uniform(0.26, 0.36) - np.hypot(u % 1 - 0.5, v % 1 - 0.5)),
    }[name]()
    mix = (0.5 + 1.5 * level).clip(0, 1)[..., None]
    colours = colour_pair(rng, HUES[name])
    light = 30 * (smooth_noise(rng, height, width) - 0.5)
    fine = grain(rng, height, width, most=6)
    return colours[0] * mix + colours[1] * (1 - mix) + light + fine


def turned(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return orthogonal coordinates (height, width), turned at random; 1 is the shorter side."""
    y, x = np.mgrid[:height, :width] / min(height, width)
    angle = rng.uniform(0, 2 * math.pi)
    c, s = math.cos(angle), math.sin(angle)
    return c * x + s * y, c * y - s * x


def colour_pair(rng: np.random.Generator, hue: float) -> np.ndarray:
    """Return a light and a dark colour (2, 3) of about this hue; shapes differ more from both."""
    hue = (hue + rng.normal(0, HUE_DEVIATION)) % 1
    saturation, value = rng.uniform(0.25, 0.8), rng.uniform(0.35, 0.85)
    step = rng.uniform(0.05, 0.1)
    pair = [colorsys.hsv_to_rgb(hue, saturation, value + side * step) for side in (1, -1)]
    return 255 * np.array(pair)


def part(rng: np.random.Generator, height: int, width: int, share: float) -> np.ndarray:
    """Return (height, width) bool: a share of the image on one side of a line, often wavy."""
    along, across = turned(rng, height, width)
    bend = max(0, rng.uniform(-0.1, 0.15))
    distance = along + bend * np.sin(2 * math.pi * (rng.uniform(0.5, 1.5) * across + rng.uniform()))
    return distance > np.quantile(distance, 1 - share)
