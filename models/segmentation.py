"""A mask for each object query (DETR, section 4.4): DETR with a mask head on top."""

from collections.abc import Callable, Sequence
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rpe_ops import is_exporting
from util.misc import NestedTensor

from .detr import DETR
from .linear import Linear
from .matcher import Matches

GROUPS = 8  # of group norm
# Masks are drawn for so many queries at once as have this many pixels together. With 32 channels
# of float32 that is 128 MiB a tensor.
PIXELS_AT_ONCE = 1 << 20


class DETRsegm(nn.Module):
    """A detector that also draws the mask of each query.

    Args:
        detr: with a backbone that gives the maps of all of its stages.
        freeze_detr: train the mask head alone. The detector then stays in evaluation mode: no
            dropout, and statistics of batch norm as they are.
        gradient_checkpointing: compute the mask head's activations again in the backward pass.
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

    def train(self, mode: bool = True) -> "DETRsegm":
        super().train(mode)
        if self.frozen:
            self.detr.eval()
        return self

    def forward(
        self,
        samples: NestedTensor | Tensor | Sequence[Tensor],
        match: Callable[[dict], list[Matches]] | None = None,
    ) -> dict:
        """Detect objects in a batch of normalised images, and draw them.

        Args:
            samples: as for `models.detr.DETR`.
            match: finds the queries that answer for objects, see `SetCriterion.match`. Training
                needs their masks alone, a small part of all.

        Returns:
            What DETR returns, and pred_masks: logits (B, Q, H / 4, W / 4) in the coordinates of
            the padded images. With `match` instead those of the last layer's M matched queries,
            (M, H / 4, W / 4) in the order of images, and matches: what `match` returned.
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
            image = image.to(attention.device)
            attention = attention[image, torch.cat(queries).to(attention.device)]
        masks = self.mask_head(
            encoded.source, attention, image, [features.tensors for features in reversed(finer)]
        ).float()
        outputs["pred_masks"] = masks.unflatten(0, shape) if match is None else masks
        return outputs


class MHAttentionMap(nn.Module):
    """Multi-head attention of queries over an image, without the product with values."""

    def __init__(self, query_dim: int, hidden_dim: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = Linear(query_dim, hidden_dim)
        self.k_linear = Linear(query_dim, hidden_dim)
        for linear in (self.q_linear, self.k_linear):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        """Weights of each head; over all heads and places together they sum to 1.

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
    """Convolutions that refine attention maps to masks, with finer and finer maps of the backbone.

    Args:
        dim: channels of the first map and the attention together.
        fpn_dims: channels of the backbone's finer maps, from coarse to fine.
        context_dim: channels of the first map; later ones have a half, a quarter, ... of them.
        gradient_checkpointing: keep only the attention for the backward pass.
    """

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
            # Narrow detectors have fewer channels than published ones have groups.
            self.add_module(f"gn{i}", nn.GroupNorm(gcd(GROUPS, dims[i]), dims[i]))
        self.out_lay = nn.Conv2d(dims[5], 1, 3, padding=1)
        for i, channels in enumerate(fpn_dims, start=1):
            self.add_module(f"adapter{i}", nn.Conv2d(channels, dims[i + 1], 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, attention: Tensor, image: Tensor, finer: Sequence[Tensor]
    ) -> Tensor:
        """Draw N masks on B images.

        Args:
            x: (B, context_dim, H, W), the map that the transformer's encoder was given.
            attention: (N, heads, H, W).
            image: (N,) int64, whose mask it is.
            finer: maps (B, fpn_dims[i], H_i, W_i).

        Returns:
            logits (N, H_i, W_i) of the size of the last map.
        """
        # A convolution of two maps side by side is the sum of each one's. That of the image is the
        # same for all of its queries.
        of_image, of_query = self.lay1.weight.split([x.shape[1], attention.shape[1]], dim=1)
        shared = [
            F.conv2d(x, of_image, self.lay1.bias, padding=1),
            self.adapter1(finer[0]),
            self.adapter2(finer[1]),
            self.adapter3(finer[2]),
        ]
        # How many parts there are depends on sizes, which an exported graph leaves open.
        if is_exporting() or (torch.is_grad_enabled() and not self.gradient_checkpointing):
            return self._draw(of_query, attention, image, *shared)
        at_once = max(PIXELS_AT_ONCE // finer[-1][0, 0].numel(), 1)
        parts = zip(attention.split(at_once), image.split(at_once), strict=True)
        if torch.is_grad_enabled():
            drawn = [
                checkpoint(self._draw, of_query, *part, *shared, use_reentrant=False)
                for part in parts
            ]
        else:
            drawn = [self._draw(of_query, *part, *shared) for part in parts]
        return torch.cat(drawn)

    def _draw(self, weight: Tensor, attention: Tensor, image: Tensor, *shared: Tensor) -> Tensor:
        """`forward` from the shared maps (B, C_i, H_i, W_i) on; weight: lay1's of attention."""
        # Indexing would add up its gradients in any order where there are several threads.
        x = F.conv2d(attention, weight, padding=1).add_(shared[0].index_select(0, image))
        x = F.relu_(self.gn1(x))
        x = F.relu_(self.gn2(self.lay2(x)))
        for i, of_image in enumerate(shared[1:], start=3):
            x = F.interpolate(x, size=of_image.shape[-2:]).add_(of_image.index_select(0, image))
            x = F.relu_(self.get_submodule(f"gn{i}")(self.get_submodule(f"lay{i}")(x)))
        return self.out_lay(x)[:, 0]
