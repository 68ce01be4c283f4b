"""Choose where discs and squares lie so that one relation holds in an image, and no other.

Lengths are in radii of a disc, places are (x, y) with y downwards, and the distance of two shapes
is that of their centres along x or y, whichever is more.
"""

from typing import NamedTuple

import numpy as np

# The steps (right, down) from a square to the disc beside it, by the disc's relation to the square.
# All but the last two stay what they are in a mirror.
RELATIONS = {
    "above": ((0.0, -1.0),),
    "below": ((0.0, 1.0),),
    "beside": ((-1.0, 0.0), (1.0, 0.0)),
    "aslant": tuple((x * 0.5**0.5, y * 0.5**0.5) for x in (-1, 1) for y in (-1, 1)),
    "left_of": ((-1.0, 0.0),),
    "right_of": ((1.0, 0.0),),
}
DISTANCE = 2.3  # least distance of a pair's shapes; they would touch at 2
SCATTER = 0.6  # of this distance
ASIDE = 0.5  # a pair's shapes are out of line by at most this
APART = 1.4  # shapes of both kinds that are no pair are at least this much farther apart than pairs
ALIKE_APART = 2.6  # shapes of the same kind
MARGIN = 1.2  # from a centre to the image's edge
TRIES = 50  # for a shape, before all are placed anew
ARRANGEMENTS = 100  # before there is no room


class Shape(NamedTuple):
    """A disc or a square of about the same size."""

    is_disc: bool
    x: float
    y: float


def place_shapes(
    rng: np.random.Generator,
    side: float,
    relation: str,
    pairs: int,
    lone: int,
    distance: float = DISTANCE,
) -> list[Shape] | None:
    """Place pairs of a disc and a square in the same relation, and lone shapes apart from them.

    Args:
        rng: what the places are drawn from.
        side: of the image, in radii.
        relation: of the disc to the square in each pair, one of RELATIONS.
        pairs: how many pairs.
        lone: how many shapes belong to no pair; each is a disc or a square.
        distance: of a pair's shapes, at least.

    Returns:
        The shapes, or None if there is no room for them.
    """
    for _ in range(ARRANGEMENTS):
        shapes: list[Shape] = []
        for group in range(pairs + lone):
            for _ in range(TRIES):
                is_pair = group < pairs
                new = _pair(rng, side, relation, distance) if is_pair else [_shape(rng, side)]
                if all(_is_free(shape, shapes, side, distance + APART) for shape in new):
                    shapes += new
                    break
            else:
                break
        else:
            return shapes
    return None


def _shape(rng: np.random.Generator, side: float) -> Shape:
    return Shape(bool(rng.integers(2)), *rng.uniform(MARGIN, side - MARGIN, 2).tolist())


def _pair(rng: np.random.Generator, side: float, relation: str, distance: float) -> list[Shape]:
    # The middle is drawn, not one of them: pairs lie everywhere whatever their relation is.
    x, y = rng.uniform(MARGIN, side - MARGIN, 2).tolist()
    along = rng.uniform(distance, distance + SCATTER) / 2
    across = rng.uniform(-ASIDE, ASIDE) / 2
    steps = RELATIONS[relation]
    right, down = steps[int(rng.integers(len(steps)))]
    dx, dy = along * right - across * down, along * down + across * right
    return [Shape(True, x + dx, y + dy), Shape(False, x - dx, y - dy)]


def _is_free(shape: Shape, others: list[Shape], side: float, apart: float) -> bool:
    # Plain numbers: NumPy would take five times as long for so few.
    far = side - MARGIN
    if not (MARGIN <= shape.x <= far and MARGIN <= shape.y <= far):
        return False
    for other in others:
        least = ALIKE_APART if shape.is_disc == other.is_disc else apart
        if abs(shape.x - other.x) < least and abs(shape.y - other.y) < least:
            return False
    return True
