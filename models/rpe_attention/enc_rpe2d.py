"""--enc_rpe2d: the string that names an encoding on the command line and in checkpoints."""

from functools import cache

from rpe_ops.irpe import RPEConfig, get_rpe_config

from ..option_values import AXIAL, CONTINUOUS, ENCODING_FORMATS, MIXED, RPE_FORMAT
from .continuous_bias import ContinuousBiasConfig
from .rotary import AXIAL_BASE, MIXED_BASE, RotaryConfig

MAX_BASE = 1e9

Encoding = RPEConfig | RotaryConfig | ContinuousBiasConfig


@cache  # the option's type, the checks and the model get the same object
def parse_encoding(text: str) -> Encoding | None:
    """Parse an encoding of the detector's encoder; None for an empty string.

    It is iRPE, see `parse_rpe_string`, or one of

        rope-axial, rope-axial-{base}, rope-mixed    see `rotary`
        cpb-log                                      see `continuous_bias`

    Raises:
        ValueError: names what is wrong, and the formats.
    """
    kind = text.partition("-")[0]
    if not text or kind == "rpe":
        return parse_rpe_string(text)
    if text == CONTINUOUS:
        return ContinuousBiasConfig()
    if text == MIXED:
        return RotaryConfig(mixed=True, base=MIXED_BASE)
    if text == AXIAL:
        return RotaryConfig()
    if text.startswith(f"{AXIAL}-"):
        return RotaryConfig(base=_base(text))
    problem = "is not known" if kind in ("rope", "cpb") else "must begin with rpe, rope or cpb"
    raise ValueError(f"{text!r}: {problem} (formats: {ENCODING_FORMATS})")


def _base(text: str) -> float:
    shown = text.removeprefix(f"{AXIAL}-")
    try:
        base = float(shown)
    except ValueError:
        base = 0.0
    if not 1 < base <= MAX_BASE:
        raise ValueError(
            f"{text!r}: base must be a number above 1, at most {MAX_BASE:g}, is {shown!r} "
            f"(format: {AXIAL}-{{base}}, for example {AXIAL}-{AXIAL_BASE:g}, as {AXIAL} is)"
        )
    return base


@cache
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
        if fields[0] in ("rope", "cpb"):
            raise ValueError("is for the detector's encoder alone, whose tokens are all of a map")
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
        config = get_rpe_config(ratio, method, mode, shared_head == "1", skip, rpe_on)
        settings = config.rpe_q or config.rpe_k or config.rpe_v
        if settings is not None and settings.num_image_buckets < 2:
            # int(2 ratio) buckets on either side of the middle: all offsets would share one.
            raise ValueError(f"ratio must be at least 0.5, or there is one bucket, is {ratio_text}")
        return config
    except ValueError as error:
        raise ValueError(f"{text!r}: {error} (format: {RPE_FORMAT})") from None


def same_encoding(one: str, other: str) -> bool:
    """Say whether two valid texts name one encoding, as rpe-2-... and rpe-2.0-... do."""
    return parse_encoding(one) == parse_encoding(other)
