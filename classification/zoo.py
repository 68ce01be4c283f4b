"""The models by name, registered with timm; names are those of the published DeiT with iRPE."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from torch import nn

from models.rpe_attention.enc_rpe2d import parse_rpe_string
from rpe_ops.irpe import RPEConfig
from util.errors import UserError

from .checkpoints import load_weights
from .data.evaluated_images import CROP_SHARE
from .deit import DistilledVisionTransformer, VisionTransformer

IRPE_ZOO = "https://github.com/wkcn/iRPE-model-zoo/releases/download/1.0"
FACEBOOK = "https://dl.fbaipublicfiles.com/deit"
SIZES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}  # width, heads


@dataclass(frozen=True)
class Variant:
    """A model.

    Attributes:
        size: a key of SIZES.
        enc_rpe2d: its encoding; empty for none, or one that the caller chooses.
        file: of published weights below `address`; empty for none.
        img_size: height and width of its images.
    """

    size: str
    enc_rpe2d: str = ""
    file: str = ""
    img_size: int = 224
    distilled: bool = False

    @property
    def plain_name(self) -> str:
        """The name of the model of this size without an encoding."""
        return f"deit_{self.size}{'_distilled' * self.distilled}_patch16_{self.img_size}"

    @property
    def address(self) -> str:
        """Where its published weights are; empty for none."""
        return f"{IRPE_ZOO if self.enc_rpe2d else FACEBOOK}/{self.file}" if self.file else ""


def _encoded(size: str, encoding: str, text: str, published: bool = True) -> dict[str, Variant]:
    name = f"deit_{size}_patch16_224_ctx_{encoding}"
    return {name: Variant(size, text, f"{name}.pth" if published else "")}


def _plain(size: str, digits: str, img_size: int = 224, distilled: bool = False) -> dict:
    """Return a plain model; `digits` are of its file's SHA-256."""
    variant = Variant(size, img_size=img_size, distilled=distilled)
    file = f"{variant.plain_name}-{digits}.pth"
    return {variant.plain_name: Variant(size, "", file, img_size, distilled)}


MODELS: dict[str, Variant] = {
    **_encoded("tiny", "product_50_shared_k", "rpe-1.9-product-ctx-1-k"),
    **_encoded("small", "product_50_shared_k", "rpe-1.9-product-ctx-1-k"),
    **_encoded("small", "product_50_shared_qk", "rpe-1.9-product-ctx-1-qk"),
    **_encoded("small", "product_50_shared_qkv", "rpe-1.9-product-ctx-1-qkv"),
    **_encoded("base", "product_50_shared_k", "rpe-1.9-product-ctx-1-k"),
    **_encoded("base", "product_50_shared_qkv", "rpe-1.9-product-ctx-1-qkv"),
    **_encoded("small", "euc_20_shared_k", "rpe-20-euc-ctx-1-k", published=False),
    **_encoded("small", "quant_51_shared_k", "rpe-33-quant-ctx-1-k", published=False),
    **_encoded("small", "cross_56_shared_k", "rpe-20-cross-ctx-1-k", published=False),
    **_plain("tiny", "a1311bcf"),
    **_plain("small", "cd65a155"),
    **_plain("base", "b5f2ef4d"),
    **_plain("base", "8de9b5d1", 384),
    **_plain("tiny", "b40b3cf7", distilled=True),
    **_plain("small", "649709d9", distilled=True),
    **_plain("base", "df68dfff", distilled=True),
    **_plain("base", "d0272ac0", 384, distilled=True),
}


def _settings(variant: Variant) -> dict[str, Any]:
    """Return timm's description of a model: where its weights are, and how images are prepared."""
    return {
        "url": variant.address,
        "num_classes": 1000,
        "input_size": (3, variant.img_size, variant.img_size),
        "fixed_input_size": True,
        "crop_pct": CROP_SHARE,  # as published; timm's own DeiT have 0.9 and 1
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": ("head", "head_dist") if variant.distilled else "head",
    }


def _tagged(name: str) -> str:
    """Return a name with the tag of its weights: timm's plain models have one."""
    return name if MODELS[name].enc_rpe2d else f"{name}.fb_in1k"


# timm's register_model looks for this name.
default_cfgs = generate_default_cfgs(
    {_tagged(name): _settings(variant) for name, variant in MODELS.items()}
)


def encoding_of(
    name: str, rpe_config: RPEConfig | None = None, enc_rpe2d: str = ""
) -> RPEConfig | None:
    """Return the encoding of a model, which its name or the caller decides.

    Args:
        name: a key of MODELS.
        rpe_config: from `get_rpe_config(..., skip=1)`, or None.
        enc_rpe2d: a string such as rpe-1.9-product-ctx-1-k, or empty.

    Raises:
        ValueError: both are given, or one differs from the name's; the string is invalid.
    """
    variant = MODELS[name]
    skip = 2 if variant.distilled else 1
    if rpe_config is not None and enc_rpe2d:
        raise ValueError("rpe_config and enc_rpe2d say the same in two ways: give one of them")
    config = rpe_config or parse_rpe_string(enc_rpe2d, skip=skip)
    if not variant.enc_rpe2d:
        return config
    own = parse_rpe_string(variant.enc_rpe2d, skip=skip)
    if config is not None and config != own:
        raise ValueError(
            f"{name} has the encoding {variant.enc_rpe2d}; with another one create "
            f"{variant.plain_name}"
        )
    return own


def _create(
    name: str,
    pretrained: bool,
    rpe_config: RPEConfig | None,
    enc_rpe2d: str,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict | None = None,
    cache_dir: str | None = None,
    **options: Any,
) -> nn.Module:
    variant = MODELS[name]
    if cache_dir is not None:
        raise ValueError("cache_dir is not used: TORCH_HOME names the folder of downloads")
    settings = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay).to_dict()
    kind = DistilledVisionTransformer if variant.distilled else VisionTransformer

    def build(**arguments: Any) -> nn.Module:
        # timm would load weights by its own functions, which prefer averaged ones, smooth position
        # embeddings and read no published file.
        model = kind(**arguments)
        if pretrained:
            load_weights(model, _source_of_weights(name, settings))
        return model

    width, heads = SIZES[variant.size]
    return build_model_with_cfg(
        build,
        name,
        pretrained=False,
        pretrained_cfg=settings,
        feature_cfg={"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"},
        rpe_config=encoding_of(name, rpe_config, enc_rpe2d),
        **{"patch_size": 16, "embed_dim": width, "depth": 12, "num_heads": heads, **options},
    )


def _source_of_weights(name: str, settings: dict[str, Any]) -> str:
    """Return the file, folder or address of a model's weights.

    Raises:
        UserError: there is none.
    """
    if settings.get("source") == "hf-hub":
        raise UserError(f"{name}: models of the hub are not downloaded; give local-dir:FOLDER")
    source = settings.get("file") or settings.get("url")
    if not source:
        raise UserError(f"{name}: no weights were published for it; leave pretrained out")
    return str(source)


def _entry_point(name: str) -> Callable[..., nn.Module]:
    def create(
        pretrained: bool = False,
        rpe_config: RPEConfig | None = None,
        enc_rpe2d: str = "",
        **options: Any,
    ) -> nn.Module:
        return _create(name, pretrained, rpe_config, enc_rpe2d, **options)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""Create {name}.

    Args:
        pretrained: load the published weights: {MODELS[name].address or "there are none"}.
        rpe_config, enc_rpe2d: the encoding, see `encoding_of`.
        options: num_classes, drop_rate, drop_path_rate, img_size, attention, and all others of
            `classification.deit` and of timm's VisionTransformer.
    """
    return create


with warnings.catch_warnings():
    # timm warns of each name that it has, too. Its plain models know no rpe_config.
    warnings.filterwarnings("ignore", message="Overwriting ")
    for _name in MODELS:
        globals()[_name] = register_model(_entry_point(_name))
