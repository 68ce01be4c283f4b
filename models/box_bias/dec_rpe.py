"""--dec_rpe: the string that names the decoder's relative positions, in options and checkpoints."""

from collections.abc import Iterable
from typing import NamedTuple

from ..option_values import DEC_RPE_FORMAT
from .offsets import MODES

RELATION = "relation"


class DecRPE(NamedTuple):
    """What the decoder's attention knows of each query's reference box.

    Attributes:
        mode: one of `offsets.MODES`, the scale of the offsets from the box's edges to pixels.
        relation: whether the queries' self-attention depends on pairs of reference boxes.
    """

    mode: str
    relation: bool = False

    def __str__(self) -> str:
        """Return the string that `parse_dec_rpe` parses."""
        return f"box-{self.mode}" + f"-{RELATION}" * self.relation

    def describe(self) -> str:
        """Say in a line what it does."""
        pairs = ", queries attend by relations of their boxes" if self.relation else ""
        return (
            "the decoder refines reference boxes, queries attend to pixels by their "
            f"{self.mode} offsets from the edges of these{pairs}"
        )


def parse_dec_rpe(text: str | None) -> DecRPE | None:
    """Parse `box-{mode}` or `box-{mode}-relation`; None for an empty string or None.

    Raises:
        ValueError: names the field that is wrong and the format.
    """
    if not text:
        return None
    prefix, *fields = text.split("-")
    if prefix != "box":
        problem = f"must begin with box, begins with {prefix!r}"
    elif len(fields) not in (1, 2):
        problem = f"has {len(fields) + 1} fields instead of 2 or 3"
    elif fields[0] not in MODES:
        problem = f"mode must be {' or '.join(MODES)}, is {fields[0]!r}"
    elif fields[1:] not in ([], [RELATION]):
        problem = f"the third field can only be {RELATION}, is {fields[1]!r}"
    else:
        return DecRPE(fields[0], len(fields) == 2)
    raise ValueError(f"{text!r}: {problem} (format: {DEC_RPE_FORMAT})")


def dec_rpe_of_weights(names: Iterable[str]) -> str:
    """Return --dec_rpe of a model whose state dict has these names; empty without reference boxes.

    The module of the offsets has the mode in its name, which shapes would not tell.
    """
    parts = {name.removeprefix(PREFIX).split(".")[0] for name in names if name.startswith(PREFIX)}
    for mode in MODES:
        if f"{mode}_offsets" in parts:
            return str(DecRPE(mode, "pairs" in parts))
    return ""


PREFIX = "transformer.decoder.references."  # of all tensors of --dec_rpe in a detector
RELATIVE = f"{PREFIX}relative"  # see `references.ReferenceBoxes`
