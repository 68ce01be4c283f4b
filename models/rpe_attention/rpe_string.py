"""The string that names an encoding on the command line and in checkpoints."""

import argparse

from .irpe import RPEConfig, get_rpe_config

RPE_FORMAT = (
    "rpe-{ratio}-{method}-{mode}-{shared_head}-{rpe_on}, for example rpe-2.0-product-ctx-1-k"
)


def parse_rpe_string(text: str, skip: int = 0) -> RPEConfig | None:
    """Read `rpe-{ratio}-{method}-{mode}-{shared_head}-{rpe_on}`; None for an empty string.

    Raises:
        ValueError: names the field that is wrong and the format.
    """
    if not text:
        return None
    fields = text.split("-")
    try:
        if len(fields) != 6:
            raise ValueError(f"has {len(fields)} fields instead of 6")
        prefix, ratio, method, mode, shared_head, rpe_on = fields
        if prefix != "rpe":
            raise ValueError(f"must begin with rpe, begins with {prefix!r}")
        try:
            ratio = float(ratio)
        except ValueError:
            raise ValueError(f"ratio must be a number, is {ratio!r}") from None
        if shared_head not in ("0", "1"):
            raise ValueError(f"shared_head must be 0 or 1, is {shared_head!r}")
        if not rpe_on:
            raise ValueError("rpe_on must name at least one of q, k, v")
        return get_rpe_config(ratio, method, mode, shared_head == "1", skip, rpe_on)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error} (format: {RPE_FORMAT})") from None


def rpe_argument(text: str) -> str:
    """argparse type of --enc_rpe2d: the text itself, if it can be read."""
    try:
        parse_rpe_string(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
