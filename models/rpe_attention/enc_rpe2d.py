"""--enc_rpe2d: the string that names an RPE on the command line and in checkpoints."""

import argparse
from functools import cache

from rpe_ops.irpe import RPEConfig, get_rpe_config

RPE_FORMAT = (
    "rpe-{ratio}-{method}-{mode}-{shared_head}-{rpe_on}, for example rpe-2.0-product-ctx-1-k"
)


@cache  # the option's type, the checks and the model get the same object
def parse_rpe_string(text: str, skip: int = 0) -> RPEConfig | None:
    """Parse `rpe-{ratio}-{method}-{mode}-{shared_head}-{rpe_on}`; None for an empty string.

    Args:
        skip: see `get_rpe_config`; 0 in the detector, which has no extra tokens.

    Raises:
        ValueError: names the field that is wrong and the format.
    """
    if not text:
        return None
    fields = text.split("-")
    try:
        if len(fields) != 6:
            raise ValueError(f"has {len(fields)} fields instead of 6")
        prefix, ratio_text, method, mode, shared_head, rpe_on = fields
        if prefix != "rpe":
            raise ValueError(f"must begin with rpe, begins with {prefix!r}")
        try:
            ratio = float(ratio_text)
        except ValueError:
            raise ValueError(f"ratio must be a number, is {ratio_text!r}") from None
        if shared_head not in ("0", "1"):
            raise ValueError(f"shared_head must be 0 or 1, is {shared_head!r}")
        if not rpe_on:
            raise ValueError("rpe_on must name at least one of q, k, v")
        return get_rpe_config(ratio, method, mode, shared_head == "1", skip, rpe_on)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error} (format: {RPE_FORMAT})") from None


def rpe_argument(text: str) -> str:
    """Check --enc_rpe2d, as its argparse type.

    It returns the text itself: checkpoints keep the options as they were given.
    """
    try:
        parse_rpe_string(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text
