"""DeiT with image relative position encoding (iRPE): timm's vision transformers, with encoding."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import deit, vision_transformer
from torch import Tensor, nn

from rpe_ops.irpe import RPEConfig, TokenMap

from .attention import Block, MapAndMask, RPEAttention

STD = 0.02  # of initial weights
PUBLISHED_INIT = ("", "reset")  # values of timm's weight_init; "reset" is after weight_init="skip"

# Of either class that `_DeiT` is mixed into; both are timm's vision transformer.
if TYPE_CHECKING:
    _Transformer = vision_transformer.VisionTransformer
else:
    _Transformer = nn.Module


class _DeiT(_Transformer):
    """What the plain and the distilled transformer have in common.

    Args:
        rpe_config: from `get_rpe_config(..., skip=1)`; each block gets tables of its own. None for
            no encoding.
        attention: how attention is computed, one of `rpe_ops.attention.ATTENTION`.
        drop_rate: dropout after the position embeddings, after attention's projection and twice in
            the MLP, as in the published DeiT (timm's is dropout before the head).
        options: of timm's VisionTransformer.

    Raises:
        ValueError: the options exclude each other.
    """

    def __init__(
        self,
        *,
        rpe_config: RPEConfig | None = None,
        attention: str = "auto",
        drop_rate: float = 0.0,
        **options: Any,
    ):
        if rpe_config is not None and options.get("patch_drop_rate"):
            raise ValueError("patch_drop_rate excludes an encoding: the rest of a map is no map")
        options = {"pos_drop_rate": drop_rate, "proj_drop_rate": drop_rate, **options}
        block: Any = partial(Block, rpe_config=rpe_config, attention=attention)
        super().__init__(block_fn=block, **options)
        settings = [rpe_config[f"rpe_{letter}"] for letter in "qkv"] if rpe_config else []
        if self.num_prefix_tokens and any(each is not None and not each.skip for each in settings):
            raise ValueError(
                "rpe_config must have skip=1, for the class token: get_rpe_config(..., skip=1)"
            )

    @torch.no_grad()
    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draw initial weights as published: linear layers and embeddings, std 0.02; tables are 0.

        Args:
            mode: timm's name of other initial weights, such as "jax".
            needs_reset: reset the other layers, too, whose constructor has not just done it.
        """
        if (mode or self.weight_init_mode) in PUBLISHED_INIT:
            for name in ("cls_token", "dist_token", "reg_token", "pos_embed"):
                if getattr(self, name, None) is not None:
                    _draw(getattr(self, name))
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    _draw(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
                elif needs_reset and callable(reset := getattr(module, "reset_parameters", None)):
                    reset()
            if self.fix_init:
                self.fix_init_weight()
        else:
            super().init_weights(mode, needs_reset)
        for layer in self.modules():
            tables = layer.named_parameters() if isinstance(layer, RPEAttention) else ()
            for name, parameter in tables:
                if name.startswith("rpe_"):
                    nn.init.zeros_(parameter)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that are not decayed besides those of one dimension.

        Tables and the distillation token are decayed, as published; timm excepts the latter.
        """
        return {"pos_embed", "cls_token", "reg_token"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the activations of each block again for the gradient, which saves memory."""
        super().set_grad_checkpointing(enable)
        for block in self.blocks:
            if isinstance(block, Block):
                block.grad_checkpointing = enable

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Change the size of the images, (height, width), and that of the patches."""
        position, grid = self.pos_embed, self.patch_embed.grid_size
        super().set_input_size(img_size, patch_size)
        if position is not None and self.patch_embed.grid_size != grid:
            # timm's is smoothed where it becomes smaller, the published one is not.
            new = resize_position_embedding(
                position.detach(), grid, self.patch_embed.grid_size, self._positioned_tokens()
            )
            self.pos_embed = nn.Parameter(new, requires_grad=position.requires_grad)

    def forward_features(
        self, x: Tensor, attn_mask: Tensor | None = None, *arguments: Any, **options: Any
    ) -> Tensor:
        """Compute images x (B, 3, height, width) -> tokens (B, L, C) after the last norm."""
        return super().forward_features(x, self._map(x, attn_mask), *arguments, **options)

    def forward_intermediates(
        self, x: Tensor, *arguments: Any, attn_mask: Tensor | None = None, **options: Any
    ) -> Any:
        """Compute the output of chosen blocks; see timm's VisionTransformer."""
        options["attn_mask"] = self._map(x, attn_mask)
        return super().forward_intermediates(x, *arguments, **options)

    def _map(self, x: Tensor, mask: Tensor | None) -> Any:
        """Return a `MapAndMask`, which timm's functions hand on as the mask that they expect."""
        height, width = self.patch_embed.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        return MapAndMask(TokenMap(height, width, self.num_prefix_tokens), mask)

    def _positioned_tokens(self) -> int:
        """Return how many extra tokens have a position embedding."""
        return 0 if self.no_embed_class else self.num_prefix_tokens

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Put the extra tokens before patches x (B, n, C), add position embeddings.

        Args:
            x: (B, height, width, C) with dynamic_img_size.
        """
        position: Tensor | None = self.pos_embed
        if self.dynamic_img_size:
            if position is not None:
                position = resize_position_embedding(
                    position, self.patch_embed.grid_size, (x.shape[1], x.shape[2]),
                    self._positioned_tokens(),
                )  # fmt: skip
            x = x.flatten(1, 2)
        if position is not None and self.no_embed_class:
            x = x + position
        tokens = (getattr(self, name, None) for name in ("cls_token", "dist_token", "reg_token"))
        extra = [token.expand(x.shape[0], -1, -1) for token in tokens if token is not None]
        x = torch.cat([*extra, x], dim=1)
        if position is not None and not self.no_embed_class:
            x = x + position
        return self.pos_drop(x)


class VisionTransformer(_DeiT, vision_transformer.VisionTransformer):
    """A DeiT with a class token; see `_DeiT` for the arguments."""


class DistilledVisionTransformer(_DeiT, deit.VisionTransformerDistilled):
    """A DeiT with a class token and a distillation token, which share a bucket.

    Its logits are the mean of two heads; after `set_distilled_training()` it returns both in
    training. See `_DeiT` for the arguments.
    """


def resize_position_embedding(
    position: Tensor, old: tuple[int, int], new: tuple[int, int], extra: int
) -> Tensor:
    """Resize position embeddings as published: bicubic, without smoothing where they shrink.

    Args:
        position: (1, extra + height * width, C), height and width in `old`; the embeddings of
            `extra` tokens stay as they are.

    Returns:
        (1, extra + height * width, C), height and width in `new`.
    """
    return resample_abs_pos_embed(
        position, list(new), list(old), num_prefix_tokens=extra, antialias=False
    )


def _draw(parameter: Tensor) -> None:
    # Not timm's function: it draws about one value in twenty million at 100 deviations.
    nn.init.trunc_normal_(parameter, std=STD)


__all__ = [
    "DistilledVisionTransformer", "RPEAttention", "VisionTransformer", "resize_position_embedding",
]  # fmt: skip
