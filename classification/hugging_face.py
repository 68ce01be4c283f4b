"""Weights of a ViT or a DeiT in a folder as Hugging Face's save_pretrained or timm writes it."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.files import read_text

CONFIG = "config.json"
TENSORS = "model.safetensors"
OLD_TENSORS = "pytorch_model.bin"
KINDS = ("vit", "deit")
MAX_EPS = 1e-5  # of layer norms: 1e-12 there and 1e-6 here give the same to six digits

# Names there, of transformers 4 and 5, and here.
NAMES = [
    (r"(?:vit\.|deit\.)", ""),
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.distillation_token", "dist_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"(?:encoder\.layer|layers)\.(\d+)\.", r"blocks.\1."),
    (r"(blocks\.\d+\.)layernorm_before\.", r"\1norm1."),
    (r"(blocks\.\d+\.)layernorm_after\.", r"\1norm2."),
    (r"(blocks\.\d+\.)attention\.attention\.(query|key|value)\.", r"\1attn.\2."),
    (r"(blocks\.\d+\.)attention\.(?:output\.dense|o_proj)\.", r"\1attn.proj."),
    (r"(blocks\.\d+\.)attention\.q_proj\.", r"\1attn.query."),
    (r"(blocks\.\d+\.)attention\.k_proj\.", r"\1attn.key."),
    (r"(blocks\.\d+\.)attention\.v_proj\.", r"\1attn.value."),
    (r"(blocks\.\d+\.)intermediate\.dense\.", r"\1mlp.fc1."),
    (r"(blocks\.\d+\.)output\.dense\.", r"\1mlp.fc2."),
    (r"layernorm\.", "norm."),
    (r"(?:cls_)?classifier\.", "head."),
    (r"distillation_classifier\.", "head_dist."),
]
UNUSED = re.compile(r"pooler\.|embeddings\.mask_token")  # of features, and of pretraining


def read_folder(
    folder: Path, model: nn.Module
) -> tuple[dict[str, Tensor], list[str], tuple[int, int] | None]:
    """Read a folder's weights with the names of this project's models.

    Args:
        model: which they are for, to compare with what the tensors do not tell.

    Returns:
        The state dict, names of tensors that the models here do not have, and rows and columns of
        patches, where the folder tells them.

    Raises:
        UserError: the folder is incomplete or damaged, or the model computes something else.
    """
    config = _read_config(folder / CONFIG)
    tensors = _read_tensors(folder)
    if "architecture" in config and "model_type" not in config:  # timm's, which has our names
        return tensors, [], None
    grid = _compare(config, model, folder / CONFIG)
    state: dict[str, Tensor] = {}
    left_out = []
    for name, value in tensors.items():
        here = usual_name(name)
        if UNUSED.match(here):
            left_out.append(name)
        else:
            state[here] = value
    _join(state, folder)
    if "dist_token" in state and "head.weight" in state and "head_dist.weight" not in state:
        raise UserError(
            f"{folder}: its logits are of the class token alone; models here take the mean of two "
            "heads, as DeiTForImageClassificationWithTeacher"
        )
    return state, left_out, grid


def usual_name(name: str) -> str:
    """Return this project's name of a tensor; q, k and v are called query, key and value."""
    for pattern, ours in NAMES:
        name = re.sub(f"^{pattern}", ours, name)
    return name


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; a folder of Hugging Face has {CONFIG} and {TENSORS}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({str(error)[:200]})") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: cannot be read (it is not an object)")
    return config


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    if (folder / TENSORS).is_file():
        from safetensors.torch import load_file  # timm needs it, too

        try:
            return load_file(folder / TENSORS)
        except Exception as error:  # safetensors raises errors of many types
            reason = str(error)[:200]
            raise UserError(
                f"{folder / TENSORS}: cannot be read, copy it again ({reason})"
            ) from error
    if (folder / OLD_TENSORS).is_file():
        content = load_checkpoint(str(folder / OLD_TENSORS))
        if isinstance(content, dict) and all(isinstance(v, Tensor) for v in content.values()):
            return content
        raise UserError(f"{folder / OLD_TENSORS}: must contain tensors by name and nothing else")
    raise UserError(f"{folder}: has no {TENSORS}")


def _compare(config: dict[str, Any], model: nn.Module, path: Path) -> tuple[int, int] | None:
    """Compare what tensors do not tell; returns rows and columns of patches, if they are known."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise UserError(f"{path}: model_type is {kind!r:.60}, not {' or '.join(KINDS)}")
    blocks: Any = model.blocks
    heads, own = config.get("num_attention_heads", 12), blocks[0].attn.num_heads
    if heads != own:
        raise UserError(f"{path}: num_attention_heads is {heads!r:.60}, the model's {own}")
    activation = config.get("hidden_act", "gelu")
    if activation != "gelu":
        raise UserError(f"{path}: hidden_act is {activation!r:.60}, the model's gelu")
    eps = config.get("layer_norm_eps", 0)
    if not isinstance(eps, int | float) or not 0 <= eps <= MAX_EPS:
        raise UserError(f"{path}: layer_norm_eps is {eps!r:.60}, the model's 1e-06")
    sizes = []
    for name, usual in (("image_size", 224), ("patch_size", 16)):
        size = config.get(name, usual)
        pair = [size, size] if isinstance(size, int) else size
        if not (isinstance(pair, list) and [type(n) for n in pair] == [int] * 2 and min(pair) > 0):
            raise UserError(f"{path}: {name} is {size!r:.60}, not one or two whole numbers")
        sizes.append(pair)
    (height, width), (rows, columns) = sizes
    return height // rows, width // columns


def _join(state: dict[str, Tensor], folder: Path) -> None:
    """Join the projections of queries, keys and values, one tensor here, in place."""
    for name in [name for name in state if ".attn.query." in name]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        try:
            joined = torch.cat([state.pop(part) for part in parts])
        except (KeyError, RuntimeError) as error:
            raise UserError(f"{folder}: query, key and value do not fit ({error})") from error
        state[name.replace(".query.", ".qkv.")] = joined
