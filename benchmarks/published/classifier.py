"""DeiT's attention the way the code published with the paper computes it, for comparison.

The same weights, and the same results up to rounding, but: logits are explicit, every encoding is
looked up by one flat index of int64 into the flattened table, and the encoding on values makes a
vector for each pair of tokens, (H or 1, L, L, D). Bucket ids are kept, as they are there.
"""

import torch
from torch import Tensor, nn

from classification.attention import MapAndMask, RPEAttention
from rpe_ops.irpe import bucket_ids


class BaselineAttention(RPEAttention):
    """Turns from an `RPEAttention` by assigning `__class__`."""

    def forward(
        self, x: Tensor, attn_mask: MapAndMask | None = None, is_causal: bool = False
    ) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q = q * self.scale
        logits = q @ k.transpose(-2, -1)
        if self.rpe_k is not None:
            logits = logits + self._looked_up(self.rpe_k, q, attn_mask)
        if self.rpe_q is not None:
            of_keys = self._looked_up(self.rpe_q, k * self.scale, attn_mask)
            logits = logits + of_keys.transpose(2, 3)
        weights = logits.softmax(dim=-1)
        out = weights @ v
        if self.rpe_v is not None:
            ids = self._ids(self.rpe_v, length, attn_mask)
            table = self.rpe_v.lookup_table_weight
            of_pairs = table[:, ids.flatten()].view(-1, length, length, self.head_dim)
            by_query = weights.permute(1, 2, 0, 3)  # (H, L, B, L)
            out = out + torch.matmul(by_query, of_pairs).permute(2, 0, 1, 3)
        return self.proj(out.transpose(1, 2).reshape(batch, length, -1))

    def _looked_up(self, rpe: nn.Module, x: Tensor, where: MapAndMask) -> Tensor:
        batch, heads, length, _ = x.shape
        table = x @ rpe.lookup_table_weight
        flat = self._ids(rpe, length, where) + self._offsets * table.shape[-1]
        return table.flatten(2)[:, :, flat.flatten()].view(batch, heads, length, length)

    def _ids(self, rpe: nn.Module, length: int, where: MapAndMask) -> Tensor:
        if not hasattr(self, "_kept"):
            height, width, skip = where.tokens
            self._kept = bucket_ids(rpe.settings, height, width, skip).long()
            self._offsets = torch.arange(length)[:, None]
        return self._kept


def make_baseline(model: nn.Module) -> nn.Module:
    """Make a classifier compute the published way, in place; return it."""
    for module in model.modules():
        if type(module) is RPEAttention:
            module.__class__ = BaselineAttention
    return model
