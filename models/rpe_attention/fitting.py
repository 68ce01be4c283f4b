"""Which encodings have tables of given shapes, for checkpoints that do not tell theirs."""

from collections.abc import Sequence

from .enc_rpe2d import parse_rpe_string


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
