"""Values of the model's options, for parsers: importing this does not import PyTorch."""

from util.cli import TextType

SMALL_BACKBONES = ("resnet10", "resnet10_tiny")
BASIC_BLOCK_BACKBONES = (*SMALL_BACKBONES, "resnet18", "resnet34")
BACKBONES = (
    *BASIC_BLOCK_BACKBONES, "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
ATTENTION = ("auto", "sdpa", "fused", "math")  # those of rpe_ops.attention

RPE_FORMAT = (
    "rpe-{ratio}-{method}-{mode}-{shared_head}-{rpe_on}, for example rpe-2.0-product-ctx-1-k"
)
AXIAL, MIXED, CONTINUOUS = "rope-axial", "rope-mixed", "cpb-log"
ENCODING_FORMATS = f"{RPE_FORMAT}; or {AXIAL}, {AXIAL}-{{base}}, {MIXED}, {CONTINUOUS}"
DEC_RPE_FORMAT = "box-{linear|log} or box-{linear|log}-relation, for example box-log"


def _parse_encoding(text: str) -> object:
    from .rpe_attention.enc_rpe2d import parse_encoding

    return parse_encoding(text)


def _parse_rpe_string(text: str) -> object:
    from .rpe_attention.enc_rpe2d import parse_rpe_string

    return parse_rpe_string(text)


def _parse_dec_rpe(text: str) -> object:
    from .box_bias.dec_rpe import parse_dec_rpe

    return parse_dec_rpe(text)


# Argparse types of --enc_rpe2d, of the detector and where it must be iRPE, and of --dec_rpe.
encoding_argument = TextType(_parse_encoding, empty="none")
rpe_argument = TextType(_parse_rpe_string, empty="none")
dec_rpe_argument = TextType(_parse_dec_rpe, empty="none")
