"""Which encodings have tables of given shapes, for checkpoints that do not tell theirs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .enc_rpe2d import AXIAL, CONTINUOUS, MIXED, parse_encoding, parse_rpe_string
from .rotary import AXIAL_BASE, RotaryConfig, magnitudes

ROTARY_WEIGHT, BIAS_WEIGHT = "rope.freqs", "cpb.mlp.2.weight"
# Of a layer, weights that tell another encoding than iRPE; numbers of axes that they can have.
OTHER_WEIGHTS = {ROTARY_WEIGHT: (1, 3), BIAS_WEIGHT: (2,)}


def heads_of_tables(tables: dict[str, tuple[int, ...]], width: int) -> int | None:
    """Return the number of attention heads, where tables determine it.

    Args:
        tables: as for `fitting_encodings`.
        width: of the tokens, which the heads share.
    """
    for shape in tables.values():
        if len(shape) == 3:
            return max(width // shape[1], 1)
        if shape[0] > 1:
            return shape[0]
    return None


def fitting_encodings(
    tables: dict[str, tuple[int, ...]], ratios: Sequence[float], skip: int = 0
) -> list[str]:
    """Return the encodings, as of --enc_rpe2d, whose tables have these shapes.

    Args:
        tables: of one layer: (1 or heads, D, buckets) or, of a bias, (1 or heads, buckets), by
            names such as rpe_k.lookup_table_weight; on values in this order, too. Not empty.
        ratios: that are tried: different ones can have as many buckets.
        skip: extra tokens before those of the image, see `rpe_ops.irpe.get_rpe_config`.

    Raises:
        ValueError: no encoding has tables of such names.
    """
    name, shape = next(iter(tables.items()))
    mode = "bias" if name.endswith("_bias") else "ctx"
    letters = {name.removeprefix("rpe_")[0] for name in tables}
    rest = f"{mode}-{int(shape[0] == 1)}-{''.join(sorted(letters, key='qkv'.find))}"
    methods = (
        ("cross",) if "rp_rows." in name or "rp_cols." in name else ("product", "euc", "quant")
    )
    texts = [f"rpe-{ratio}-{method}-{rest}" for method in methods for ratio in ratios]
    return [text for text in texts if _num_buckets(text, skip) == shape[-1]]


def _num_buckets(text: str, skip: int) -> int:
    config = parse_rpe_string(text, skip)
    assert config is not None  # which only an empty text names
    return next(part for part in (config.rpe_q, config.rpe_k, config.rpe_v) if part).num_buckets


def other_encoding(name: str, value: Tensor, width: int) -> tuple[str, int]:
    """Return the encoding, as of --enc_rpe2d, and the number of heads that weights tell.

    Args:
        name: a key of OTHER_WEIGHTS.
        value: of that weight, with one of its numbers of axes, not empty.
        width: of the tokens, which the heads share.

    Raises:
        ValueError: they are those of no encoding.
    """
    if name == BIAS_WEIGHT:
        return CONTINUOUS, value.shape[0]
    if value.dim() == 3:
        return MIXED, value.shape[1]
    heads = max(width // (4 * len(value)), 1)
    # The second frequency is base ** (-1 / number of frequencies).
    base = AXIAL_BASE
    if len(value) > 1 and 0 < value[1] < 1:
        base = float(f"{value[1].item() ** -len(value):.5g}")
    text = AXIAL if base == AXIAL_BASE else f"{AXIAL}-{base:g}"
    try:
        config = parse_encoding(text)
    except ValueError:
        config = None
    wanted = magnitudes(4 * len(value), base) if isinstance(config, RotaryConfig) else None
    if wanted is None or not torch.allclose(value.float().cpu(), wanted, rtol=1e-3):
        raise ValueError(f"are not base ** (-i / {len(value)}) of any base")
    return text, heads
