"""The parts of a model that its cost is told of, and the rows of a table made of them."""

import re
from collections.abc import Mapping
from typing import NamedTuple

REST = "rest"  # what no part claims; not shown where it is nothing


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        name: shown to the user.
        pattern: what names of its modules and parameters begin with.
        inside: name of the part that it belongs to, whose own pattern may fit, too; None if it
            stands for itself.
    """

    name: str
    pattern: str
    inside: str | None = None


class Row(NamedTuple):
    """A row of a table: a part with all inside of it, or one inside of another."""

    name: str
    inside: str | None
    value: int


# Of a detector; those of one with masks have "detr." before most names.
DETECTOR = (
    Part("backbone", r"backbone\.0\b"),
    Part("absolute positions", r"backbone\.1\b"),
    Part("input projection", r"input_proj\b"),
    Part("encoder", r"transformer\.encoder\b"),
    Part("encoding", r"transformer\.encoder\..*\.(rpe_[qkv]|rope|cpb)\b", "encoder"),
    Part("object queries", r"query_embed\b"),
    Part("decoder", r"transformer\.decoder\b"),
    Part("reference boxes", r"transformer\.decoder\.references\b", "decoder"),
    Part("heads", r"(class|bbox)_embed\b"),
    Part("mask head", r"(bbox_attention|mask_head)\b"),
)
# Of a DeiT, with timm's names.
CLASSIFIER = (
    Part("patch embedding", r"patch_embed\b"),
    Part("tokens and positions", r"(cls_token|dist_token|reg_token|pos_embed)\b"),
    Part("blocks", r"blocks\b"),
    Part("encoding", r"blocks\.\d+\.attn\.rpe_[qkv]\b", "blocks"),
    Part("norm and head", r"(norm|fc_norm|head|head_dist)\b"),
)


def part_of(name: str, parts: tuple[Part, ...]) -> str:
    """Return the name of the part that a module or parameter belongs to; REST for none.

    Args:
        name: as in the state dict; empty for the model itself.
    """
    name = name.removeprefix("detr.")
    fitting = [part for part in parts if re.match(part.pattern, name)]
    # A part inside of another one takes what it claims from it.
    inner = [part for part in fitting if part.inside is not None]
    return next((part.name for part in (*inner, *fitting)), REST)


def rows_of(values: Mapping[str, int], parts: tuple[Part, ...]) -> list[Row]:
    """Return a row for each part, and last the total.

    Args:
        values: by the names that `part_of` returns, so that each is counted once.

    Returns:
        Parts with all inside of them, each followed by the rows of these. Their sum is the total,
        without the rows of those inside.
    """
    rows = []
    for part in parts:
        inner = [other.name for other in parts if other.inside == part.name]
        rows.append(Row(part.name, part.inside, sum(values.get(n, 0) for n in (part.name, *inner))))
    if values.get(REST):
        rows.append(Row(REST, None, values[REST]))
    return [*rows, Row("total", None, sum(values.values()))]
