"""Translate names of tensors between this project and Hugging Face's DetrForObjectDetection."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from checkpoints.infer_options import BODY, COUNTER
from util.errors import UserError

Pairs = Sequence[tuple[str, str]]

# Prefixes of names here and in Hugging Face's model; {} is a number; what follows is the same.
PAIRS = [
    ("class_embed", "class_labels_classifier"),
    ("bbox_embed", "bbox_predictor"),
    ("query_embed", "model.query_position_embeddings"),
    ("input_proj", "model.input_projection"),
    ("backbone.1.row_embed", "model.position_embedding.row_embeddings"),
    ("backbone.1.col_embed", "model.position_embedding.column_embeddings"),
    ("transformer.decoder.norm", "model.decoder.layernorm"),
]
for _part, _norms in (
    ("encoder", ("self_attn", "final")),
    ("decoder", ("self_attn", "encoder_attn", "final")),
):
    for _here, _there in (
        ("self_attn", "self_attn"),
        ("multihead_attn", "encoder_attn"),
        ("linear1", "fc1"),
        ("linear2", "fc2"),
        *((f"norm{i}", f"{norm}_layer_norm") for i, norm in enumerate(_norms, start=1)),
    ):
        _pair = f"transformer.{_part}.layers.{{}}.{_here}", f"model.{_part}.layers.{{}}.{_there}"
        PAIRS.append(_pair)

# timm names the parts of a ResNet as torchvision does; transformers' own ResNet does not.
BACKBONE = "model.backbone.conv_encoder.model"
TIMM_PAIRS = [(BODY.rstrip("."), BACKBONE)]
STEM = f"{BACKBONE}.embedder.embedder"
NATIVE_PAIRS = [(f"{BODY}conv1", f"{STEM}.convolution"), (f"{BODY}bn1", f"{STEM}.normalization")]
for _stage in range(4):
    for _conv, _norm, _there in (
        *((f"conv{i + 1}", f"bn{i + 1}", f"layer.{i}") for i in range(3)),
        ("downsample.0", "downsample.1", "shortcut"),
    ):
        _block = f"{BACKBONE}.encoder.stages.{_stage}.layers.{{}}.{_there}"
        _here = f"{BODY}layer{_stage + 1}.{{}}."
        NATIVE_PAIRS += [(_here + _conv, f"{_block}.convolution")]
        NATIVE_PAIRS += [(_here + _norm, f"{_block}.normalization")]

# Names of other versions (transformers 5, early 4) and the usual ones above.
OTHER_NAMES = [
    (r"model\.backbone\.model\.", f"{BACKBONE}."),
    (r"model\.backbone\.position_embedding\.", "model.position_embedding."),
    (r"(model\..+_attn)\.o_proj\.", r"\1.out_proj."),
    (r"(model\.(?:en|de)coder\.layers\.\d+)\.mlp\.", r"\1."),
]


def to_hugging_face(state: dict[str, Tensor], native: bool) -> dict[str, Tensor]:
    """Return a state dict with Hugging Face's names.

    The projections of an attention layer, one tensor here, are three there. The counters of trained
    batch norm are left out: Hugging Face's is frozen.

    Args:
        state: of a `models.detr.DETR` without relative positions.
        native: whether to use the names of transformers' own ResNet, not timm's.

    Returns:
        Contiguous tensors that share no memory.
    """
    pairs = _compiled([*PAIRS, *(NATIVE_PAIRS if native else TIMM_PAIRS)])
    tensors = {}
    for name, value in state.items():
        if name.endswith(COUNTER):
            continue
        there = _translated(name, pairs)
        if ".in_proj_" in there:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                tensors[there.replace("in_proj_", f"{letter}_proj.")] = part
        else:
            tensors[there] = value
    return {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }


def from_hugging_face(tensors: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], bool]:
    """Return a state dict of `models.detr.DETR`, and whether the backbone is the native ResNet.

    Args:
        source: their file or folder, for messages.

    Raises:
        UserError: a name does not belong to a DetrForObjectDetection, or a projection is missing.
    """
    names = {name: _usual(name) for name in tensors if not name.endswith(COUNTER)}
    native = any(name.startswith(STEM) for name in names.values())
    pairs = _compiled([(b, a) for a, b in (*PAIRS, *(NATIVE_PAIRS if native else TIMM_PAIRS))])
    state = {}
    for name, usual in names.items():
        here = _translated(usual, pairs)
        if here is None:
            raise UserError(f"{source}: {name[:100]!r} is not a tensor of a DetrForObjectDetection")
        state[here] = tensors[name]
    for name in [name for name in state if re.search(r"\.q_proj\.\w+$", name)]:
        try:
            parts = [state.pop(name.replace(".q_proj.", f".{letter}_proj.")) for letter in "qkv"]
            state[name.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{source}: q_proj, k_proj and v_proj do not fit ({error})") from error
    return state, native


def _usual(name: str) -> str:
    for pattern, usual in OTHER_NAMES:
        name = re.sub(f"^{pattern}", usual, name)
    return name


def _compiled(pairs: Pairs) -> list[tuple[re.Pattern, str]]:
    return [
        (re.compile(re.escape(begin).replace(r"\{\}", r"(\d+)") + r"(\..+)"), f"{other}{{}}")
        for begin, other in pairs
    ]


def _translated(name: str, pairs: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, other in pairs:
        found = pattern.fullmatch(name)
        if found:
            return other.format(*found.groups())
    return None
