"""The DETR detector (Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.misc import NestedTensor, nested_tensor_from_tensor_list


class Encoded(NamedTuple):
    """What the heads of a detector work on.

    Attributes:
        features: maps of the backbone, (B, C_i, H_i, W_i) with masks; the last one is the coarsest.
        source: the last one, projected, (B, C, H, W).
        hidden: outputs of the decoder's layers, (layers, B, Q, C).
        memory: output of the encoder, (B, C, H, W).
    """

    features: list[NestedTensor]
    source: Tensor
    hidden: Tensor
    memory: Tensor


class DETR(nn.Module):
    """Backbone, transformer, and two heads that read a class and a box from each object query.

    Args:
        backbone: module with `num_channels`, see `models.backbone.Joiner`.
        transformer: module with `d_model`, see `models.transformer.Transformer`.
        num_classes: class ids 0 .. num_classes - 1; one more logit means "no object".
        num_queries: the most objects that can be found in an image.
        aux_loss: also give the predictions of all decoder layers but the last.
    """

    def __init__(
        self,
        backbone: nn.Module,
        transformer: nn.Module,
        num_classes: int,
        num_queries: int,
        aux_loss: bool = False,
    ):
        super().__init__()
        hidden_dim = transformer.d_model
        self.transformer = transformer
        self.class_embed = nn.Linear(hidden_dim, num_classes + 1)
        self.bbox_embed = MLP(hidden_dim, hidden_dim, 4, num_layers=3)
        self.query_embed = nn.Embedding(num_queries, hidden_dim)
        self.input_proj = nn.Conv2d(backbone.num_channels, hidden_dim, kernel_size=1)
        self.backbone = backbone
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.aux_loss = aux_loss

    def forward(self, samples: NestedTensor | Tensor | Sequence[Tensor]) -> dict:
        """Detect objects in a batch of normalised images.

        Args:
            samples: padded images, or a list of (3, H_i, W_i), or a batch (B, 3, H, W).

        Returns:
            pred_logits: (B, Q, num_classes + 1), the last one for "no object".
            pred_boxes: (B, Q, 4), (cx, cy, w, h) in [0, 1] of the unpadded image.
            aux_outputs: the same two for each earlier decoder layer (with aux_loss).
        """
        return self.predict(self.encode(samples).hidden)

    def encode(self, samples: NestedTensor | Tensor | Sequence[Tensor]) -> Encoded:
        """Backbone and transformer on what `forward` takes."""
        if not isinstance(samples, NestedTensor):
            samples = nested_tensor_from_tensor_list(samples)
        features, position = self.backbone(samples)
        tensors, mask = features[-1].decompose()
        source = self.input_proj(tensors)
        hidden, memory = self.transformer(source, mask, self.query_embed.weight, position)
        return Encoded(features, source, hidden, memory)

    def predict(self, hidden: Tensor) -> dict:
        """Decoder outputs (layers, B, Q, C) -> what `forward` returns."""
        if not self.aux_loss:
            hidden = hidden[-1:]
        with torch.autocast(hidden.device.type, enabled=False):
            # 16 bits would put a box off by pixels. The heads are small.
            if hidden.dtype in (torch.bfloat16, torch.float16):
                hidden = hidden.float()
            logits = self.class_embed(hidden)
            boxes = self.bbox_embed(hidden).sigmoid()
        layers = [
            {"pred_logits": layer_logits, "pred_boxes": layer_boxes}
            for layer_logits, layer_boxes in zip(logits, boxes, strict=True)
        ]
        outputs = layers.pop()
        if self.aux_loss:
            outputs["aux_outputs"] = layers
        return outputs


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        sizes = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) -> (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)
