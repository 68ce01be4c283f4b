"""A DeiT with image relative position encoding, computed token by token from the formulas."""

import math

import torch
from torch import Tensor

from tests.helpers.rpe_loops import loop_ids, tables


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean = sum(x) / len(x)
    variance = sum((value - mean) ** 2 for value in x) / len(x)
    return (x - mean) / (variance + 1e-6) ** 0.5 * weight + bias


class Loop:
    """Computes the logits of one image.

    Args:
        state: the model's parameters by name.
        heads: their number.
        patch: height and width of a patch.
        encoding: (method, ratio) of tests.helpers.rpe_loops, or None.
    """

    def __init__(self, state: dict[str, Tensor], heads: int, patch: int, encoding=None):
        self.state, self.heads, self.patch, self.encoding = state, heads, patch, encoding

    def affine(self, x: Tensor, name: str) -> Tensor:
        return self.state[f"{name}.weight"] @ x + self.state[f"{name}.bias"]

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Return logits of each head: of the class token and, if there is one, of the other."""
        state, patch = self.state, self.patch
        self.rows, self.columns = image.shape[1] // patch, image.shape[2] // patch
        extra = [name for name in ("cls_token", "dist_token") if name in state]
        tokens = [state[name][0, 0] for name in extra]
        kernels = state["patch_embed.proj.weight"]
        for row in range(self.rows):
            for column in range(self.columns):
                piece = image[:, row * patch : (row + 1) * patch]
                piece = piece[:, :, column * patch : (column + 1) * patch]
                value = torch.stack([(kernel * piece).sum() for kernel in kernels])
                tokens.append(value + state["patch_embed.proj.bias"])
        tokens = [token + state["pos_embed"][0, i] for i, token in enumerate(tokens)]
        self.extra = len(extra)
        self.ids = {}
        if self.encoding is not None:
            method, ratio = self.encoding
            for name in tables(method):
                self.ids[name] = loop_ids(name, ratio, self.rows, self.columns, self.extra).tolist()
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        for block in range(depth):
            tokens = self.block(tokens, f"blocks.{block}")
        ends = [norm(token, state["norm.weight"], state["norm.bias"]) for token in tokens[:2]]
        return [
            self.affine(end, head) for end, head in zip(ends, ("head", "head_dist")[: len(extra)])
        ]

    def block(self, tokens: list[Tensor], name: str) -> list[Tensor]:
        first, second = (
            (self.state[f"{name}.norm{i}.weight"], self.state[f"{name}.norm{i}.bias"])
            for i in (1, 2)
        )
        attended = self.attention([norm(token, *first) for token in tokens], f"{name}.attn")
        tokens = [token + change for token, change in zip(tokens, attended)]
        out = []
        for token in tokens:
            hidden = self.affine(norm(token, *second), f"{name}.mlp.fc1")
            hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
            out.append(token + self.affine(hidden, f"{name}.mlp.fc2"))
        return out

    def attention(self, tokens: list[Tensor], name: str) -> list[Tensor]:
        length, width = len(tokens), len(tokens[0])
        size = width // self.heads
        projected = [self.affine(token, f"{name}.qkv") for token in tokens]
        of_heads = []
        for head in range(self.heads):
            q, k, v = (
                [value[start : start + size] for value in projected]
                for start in (part * width + head * size for part in range(3))
            )
            outs = []
            for i in range(length):
                query = q[i] / math.sqrt(size)
                logits = []
                for j in range(length):
                    logit = query @ k[j] + self.term(f"{name}.rpe_k", query, head, i, j)
                    key = k[j] / math.sqrt(size)
                    logits.append(logit + self.term(f"{name}.rpe_q", key, head, j, i))
                powers = torch.stack(logits).exp()
                weights = powers / powers.sum()
                outs.append(
                    sum(
                        weights[j] * (v[j] + self.on_value(f"{name}.rpe_v", head, i, j))
                        for j in range(length)
                    )
                )
            of_heads.append(outs)
        return [self.affine(torch.cat(parts), f"{name}.proj") for parts in zip(*of_heads)]

    def entry(self, name: str, head: int, i: int, j: int):
        """Yield each table of an encoding, its head's row, and the bucket of the pair."""
        for method, ids in self.ids.items():
            inner = f".rp_{method}" if method in ("rows", "cols") else ""
            for kind in ("weight", "bias"):
                table = self.state.get(f"{name}{inner}.lookup_table_{kind}")
                if table is not None:
                    yield kind, table[min(head, len(table) - 1)], ids[i][j]

    def term(self, name: str, own: Tensor, head: int, i: int, j: int):
        """Return what token i, whose query or key is `own`, adds to the logit with token j."""
        return sum(
            own @ table[:, bucket] if kind == "weight" else table[bucket]
            for kind, table, bucket in self.entry(name, head, i, j)
        )

    def on_value(self, name: str, head: int, i: int, j: int):
        return sum(table[bucket] for _, table, bucket in self.entry(name, head, i, j))
