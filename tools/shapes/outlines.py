"""Outlines of the shapes to draw."""

import math

import numpy as np

# Number of corners, and the radii of the corners in turn.
REGULAR = {
    "disc": (32, (1,)),
    "square": (4, (1,)),
    "triangle": (3, (1,)),
    "star": (10, (1, 0.45)),
    "hexagon": (6, (1,)),
}
OUTLINES = (*REGULAR, "plus", "arrow", "moon")


def outline(name: str, rng: np.random.Generator) -> np.ndarray:
    """Return the corners (n, 2) of a shape of radius 1 at a random angle."""
    angle = rng.uniform(0, 2 * math.pi)
    c, s = math.cos(angle), math.sin(angle)
    return _upright(name) @ np.array([[c, s], [-s, c]])


def _upright(name: str) -> np.ndarray:
    if name in REGULAR:
        corners, radii = REGULAR[name]
        return (
            _circle(np.arange(corners) * 2 * math.pi / corners) * np.resize(radii, corners)[:, None]
        )
    return {"plus": _plus, "arrow": _arrow, "moon": _moon}[name]()


def _plus() -> np.ndarray:
    arm = 0.36
    quarter = np.array([(arm, arm), (1, arm), (1, -arm)]) / math.hypot(1, arm)
    turns = [np.array([[c, -s], [s, c]]) for c, s in ((1, 0), (0, -1), (-1, 0), (0, 1))]
    return np.concatenate([quarter @ turn.T for turn in turns])


def _arrow() -> np.ndarray:
    upper = np.array([(-0.95, 0.2), (0.1, 0.2), (0.1, 0.65)])
    return np.concatenate([upper, [(1, 0)], upper[::-1] * (1, -1)])


def _moon() -> np.ndarray:
    """Return a disc minus another one of the same size to its right."""
    outer = _circle(np.linspace(math.pi / 3, 5 * math.pi / 3, 24))
    inner = _circle(np.linspace(4 * math.pi / 3, 2 * math.pi / 3, 14)[1:-1]) + np.array([1, 0])
    return np.concatenate([outer, inner])


def _circle(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], 1)
