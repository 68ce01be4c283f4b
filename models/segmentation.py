"""A mask for each object query (DETR, section 4.4): DETR with a mask head on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpe_ops import is_exporting
from util.misc import NestedTensor

from . import mask_losses
from .layers import Linear
from .matcher import Matches
from .postprocess import PostProcessPanoptic, PostProcessSegm

if TYPE_CHECKING:  # models.detr imports this file, as in DETR
    from .detr import DETR

__all__ = [
    "DETRsegm",
    "MHAttentionMap",
    "MaskHeadSmallConv",
    "PostProcessPanoptic",
    "PostProcessSegm",
    "dice_loss",
    "sigmoid_focal_loss",
]

GROUPS = 8  # of group norm
# The mask head runs on as many queries at a time as have this many mask pixels together. With 32
# channels of float32 that is 128 MiB a tensor.
PIXELS_AT_ONCE = 1 << 20


class DETRsegm(nn.Module):
    """A detector that also predicts a mask for each query.

    Args:
        detr: built with a backbone that returns the maps of all stages.
        freeze_detr: train the mask head alone. The detector then stays in evaluation mode, without
            dropout and with fixed statistics of batch norm.
        gradient_checkpointing: recompute the mask head's activations in the backward pass.
    """

    def __init__(self, detr: DETR, freeze_detr: bool = False, gradient_checkpointing: bool = False):
        super().__init__()
        self.detr = detr
        self.frozen = freeze_detr
        if freeze_detr:
            detr.requires_grad_(False)
        hidden_dim, nheads = detr.transformer.d_model, detr.transformer.nhead
        self.bbox_attention = MHAttentionMap(hidden_dim, hidden_dim, nheads)
        *finer, _ = detr.backbone.stage_channels
        self.mask_head = MaskHeadSmallConv(
            hidden_dim + nheads, finer[::-1], hidden_dim, gradient_checkpointing
        )

    def train(self, mode: bool = True) -> DETRsegm:
        """Set training mode, except for a frozen detector."""
        super().train(mode)
        if self.frozen:
            self.detr.eval()
        return self

    def forward(
        self,
        samples: NestedTensor | Tensor | Sequence[Tensor],
        match: Callable[[dict], list[Matches]] | None = None,
    ) -> dict:
        """Detect objects and their masks in a batch of normalised images.

        Args:
            samples: see `models.detr.DETR.forward`.
            match: matches queries with objects, see `SetCriterion.match`. Training needs only the
                masks of matched queries, a few of all.

        Returns:
            What DETR returns, and pred_masks: logits (B, Q, H / 4, W / 4) in the coordinates of
            the padded images. With `match`, instead those of the last layer's M matched queries,
            (M, H / 4, W / 4), image by image, and matches: what `match` returned.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            encoded = self.detr.encode(samples)
            outputs = self.detr.predict(encoded.hidden)
        *finer, coarsest = encoded.features
        attention = self.bbox_attention(encoded.hidden[-1], encoded.memory, coarsest.mask)
        shape = attention.shape[:2]
        if match is None:
            image = torch.arange(shape[0], device=attention.device).repeat_interleave(shape[1])
            attention = attention.flatten(0, 1)
        else:
            outputs["matches"] = match(outputs)
            queries = [queries for queries, _ in outputs["matches"][-1]]
            image = torch.cat([torch.full_like(q, i) for i, q in enumerate(queries)])
            index = torch.stack([image, torch.cat(queries)])
            image, query = index.to(attention.device, non_blocking=True)
            attention = attention[image, query]
        masks = self.mask_head(
            encoded.source, attention, image, [features.tensors for features in reversed(finer)]
        ).float()
        outputs["pred_masks"] = masks.unflatten(0, shape) if match is None else masks
        return outputs


class MHAttentionMap(nn.Module):
    """Multi-head attention weights of queries over an image, without values."""

    def __init__(self, query_dim: int, hidden_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = Linear(query_dim, hidden_dim)
        self.k_linear = Linear(query_dim, hidden_dim)
        nn.init.xavier_uniform_(self.q_linear.weight)
        nn.init.xavier_uniform_(self.k_linear.weight)
        nn.init.zeros_(self.q_linear.bias)
        nn.init.zeros_(self.k_linear.bias)

    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        """Compute the attention weights; a query's sum to 1 over all heads and positions together.

        Args:
            q: (B, Q, C).
            k: (B, C, H, W).
            mask: (B, H, W) bool, True on padding.

        Returns:
            (B, Q, heads, H, W).
        """
        height, width = k.shape[-2:]
        q = self.q_linear(q).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k = self.k_linear(k.flatten(2).mT).unflatten(-1, (self.num_heads, -1)).permute(0, 2, 3, 1)
        logits = (q * q.shape[-1] ** -0.5) @ k  # (B, heads, Q, H * W)
        logits = logits.transpose(1, 2).masked_fill(mask.flatten(1)[:, None, None], -torch.inf)
        weights = logits.flatten(2).softmax(-1)
        return weights.view(*logits.shape[:3], height, width)


class MaskHeadSmallConv(nn.Module):
    """Convolutions that refine attention maps to masks, adding finer and finer backbone maps.

    Args:
        dim: channels of the first feature map and the attention maps together.
        fpn_dims: channels of the backbone's finer maps, from coarse to fine.
        context_dim: channels of the first feature map; later stages have 1/2, 1/4, ... of it.
        gradient_checkpointing: keep only the attention maps for the backward pass.
    """

    # Names of published checkpoints.
    lay1: nn.Conv2d
    lay2: nn.Module
    gn1: nn.Module
    gn2: nn.Module
    adapter1: nn.Module
    adapter2: nn.Module
    adapter3: nn.Module

    def __init__(
        self,
        dim: int,
        fpn_dims: Sequence[int],
        context_dim: int,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        dims = [dim, dim, *(max(context_dim >> i, 1) for i in (1, 2, 3, 4))]
        for i in range(1, 6):
            self.add_module(f"lay{i}", nn.Conv2d(dims[i - 1], dims[i], 3, padding=1))
            # Small detectors can have fewer channels than the published ones have groups.
            self.add_module(f"gn{i}", nn.GroupNorm(gcd(GROUPS, dims[i]), dims[i]))
        self.out_lay = nn.Conv2d(dims[5], 1, 3, padding=1)
        for i, channels in enumerate(fpn_dims, start=1):
            self.add_module(f"adapter{i}", nn.Conv2d(channels, dims[i + 1], 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, attention: Tensor, image: Tensor, finer: Sequence[Tensor]
    ) -> Tensor:
        """Predict N masks on B images.

        Args:
            x: (B, context_dim, H, W), the input of the transformer's encoder.
            attention: (N, heads, H, W).
            image: (N,) int64, index of each mask's image.
            finer: backbone maps (B, fpn_dims[i], H_i, W_i), from coarse to fine.

        Returns:
            Logits (N, H_i, W_i), of the size of the last map.
        """
        # A convolution of concatenated maps is the sum of a convolution of each. The image's part,
        # most of the work, is the same for all of its queries and so computed once.
        image_weight, query_weight = self.lay1.weight.split([x.shape[1], attention.shape[1]], dim=1)
        shared = [
            F.conv2d(x, image_weight, self.lay1.bias, padding=1),
            self.adapter1(finer[0]),
            self.adapter2(finer[1]),
            self.adapter3(finer[2]),
        ]
        # No parts in an exported graph: their number depends on sizes, which are symbols there.
        if is_exporting() or (torch.is_grad_enabled() and not self.gradient_checkpointing):
            return self._masks(query_weight, attention, image, *shared)
        at_once = max(PIXELS_AT_ONCE // finer[-1][0, 0].numel(), 1)
        parts = zip(attention.split(at_once), image.split(at_once), strict=True)
        if torch.is_grad_enabled():
            masks = [
                checkpoint(self._masks, query_weight, *part, *shared, use_reentrant=False)
                for part in parts
            ]
        else:
            masks = [self._masks(query_weight, *part, *shared) for part in parts]
        return torch.cat(masks)

    def _masks(self, weight: Tensor, attention: Tensor, image: Tensor, *shared: Tensor) -> Tensor:
        """Run all layers on N attention maps.

        Args:
            weight: the part of lay1's weight that is for attention maps.
            attention, image: see `forward`.
            shared: what the layers add, computed once per image, (B, C_i, H_i, W_i).
        """
        # index_select, not x[image]: the backward pass of indexing adds up gradients in an order
        # that varies with several threads.
        x = F.conv2d(attention, weight, padding=1).add_(shared[0].index_select(0, image))
        x = F.relu_(self.gn1(x))
        x = F.relu_(self.gn2(self.lay2(x)))
        for i, finer in enumerate(shared[1:], start=3):
            x = F.interpolate(x, size=finer.shape[-2:]).add_(finer.index_select(0, image))
            x = F.relu_(self.get_submodule(f"gn{i}")(self.get_submodule(f"lay{i}")(x)))
        return self.out_lay(x)[:, 0]


# ---- DETR's loss functions, for code that imports them from here ----


def dice_loss(inputs: Tensor, targets: Tensor, num_boxes: float) -> Tensor:
    """Sum the dice loss of n masks, divided by num_boxes; inputs (logits), targets: (n, ...)."""
    return mask_losses.dice_loss(inputs.flatten(1), targets.flatten(1)).sum() / num_boxes


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, num_boxes: float, alpha: float = 0.25, gamma: float = 2
) -> Tensor:
    """Sum the focal loss of n masks (a mean over each one's pixels), divided by num_boxes.

    Args:
        inputs: logits (n, P).
        targets: (n, P), 0 or 1.
    """
    loss = torchvision.ops.sigmoid_focal_loss(inputs, targets, alpha, gamma)
    return loss.mean(1).sum() / num_boxes
