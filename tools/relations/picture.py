"""Draw discs and squares."""

import numpy as np
from PIL import Image, ImageDraw

from tools.relations.places import Shape

SQUARE = 0.9  # half a square's side, in radii: its area is about a disc's
OVERSAMPLING = 4  # shapes are drawn this much larger, for smooth edges
GRAIN = 8  # standard deviation, of 255
# Least and most of red, green and blue: discs are warm, squares are cool.
GROUND = ((90, 160),) * 3
DISC = ((200, 255), (60, 160), (0, 60))
SQUARE_COLOUR = DISC[::-1]


def draw_shapes(
    rng: np.random.Generator, shapes: list[Shape], size: int, radius: float
) -> Image.Image:
    """Draw shapes on a grey ground with grain.

    Args:
        rng: what colours and grain are drawn from.
        shapes: their places are in radii.
        size: the image's height and width in pixels.
        radius: of a disc; the image's side is 1.
    """
    ground = round(rng.uniform(*GROUND[0]))
    image = Image.new("RGB", (size * OVERSAMPLING,) * 2, (ground,) * 3)
    draw = ImageDraw.Draw(image)
    radius *= size * OVERSAMPLING
    for shape in shapes:
        x, y = shape.x * radius, shape.y * radius
        if shape.is_disc:
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=_colour(rng, DISC))
        else:
            half = SQUARE * radius
            box = (x - half, y - half, x + half, y + half)
            draw.rectangle(box, fill=_colour(rng, SQUARE_COLOUR))
    small = image.resize((size, size), Image.Resampling.BOX)
    grainy = np.asarray(small) + rng.normal(0, GRAIN, (size, size, 1))
    return Image.fromarray(grainy.clip(0, 255).round().astype(np.uint8))


def _colour(rng: np.random.Generator, limits: tuple) -> tuple[int, ...]:
    return tuple(round(rng.uniform(least, most)) for least, most in limits)
