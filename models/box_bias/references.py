"""Reference boxes: where each query looks, refined by each decoder layer."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..autocast import without_autocast
from .bias import BoxBias
from .dec_rpe import DecRPE
from .offsets import edge_offsets, pair_relations, pixel_centres, scaled_offsets

WIDTH = 64  # of the hidden layer between offsets and the heads' bias


class ReferenceBoxes(nn.Module):
    """The reference boxes of a decoder's queries, and the bias that attention gets from them.

    A query starts from a learned box. After each layer the detector's box head says how to change
    it: the new box is sigmoid(head(output) + inverse_sigmoid(box)). It is the layer's prediction
    and, without gradient, the next layer's reference (as in Deformable DETR and DAB-DETR). Boxes
    are kept as logits: the inverse sigmoid has no value for boxes at the border.

    All layers share the networks that turn boxes into a bias, as in SAM 3 (in Plain DETR each layer
    has its own). They start at a bias of zero.

    Args:
        d_model: width of the queries.
        num_heads: of the decoder's attention.
        config: which bias there is.

    Attributes:
        initial: makes the logits of the learned boxes of the query embeddings.
        relative: 1 if the box head predicts changes of the reference; 0 if it predicts boxes by
            itself, as the head of a detector without references, whose weights --finetune has
            loaded. Not trained.
        linear_offsets or log_offsets: for "x" and "y", a network from a pixel's two offsets to the
            bias of each head.
        pairs: a network from the relation of two boxes to the bias of each head; None without.
    """

    relative: Tensor

    def __init__(self, d_model: int, num_heads: int, config: DecRPE):
        super().__init__()
        self.mode = config.mode
        self.initial = nn.Linear(d_model, 4)
        self.register_buffer("relative", torch.ones(()))
        axes = {axis: bias_network(2, num_heads) for axis in ("x", "y")}
        # A checkpoint of weights alone tells the mode by this name.
        self.add_module(f"{self.mode}_offsets", nn.ModuleDict(axes))
        self.pairs = bias_network(4, num_heads) if config.relation else None

    @torch.no_grad()
    def start_neutral(self) -> None:
        """Zero the last layer of each network, so that there is no bias yet."""
        for module in self.modules():
            if isinstance(module, nn.Sequential):
                for parameter in module[-1].parameters():
                    parameter.zero_()

    def refine(self, logits: Tensor, change: Tensor) -> Tensor:
        """Return the logits of the boxes after a layer.

        Args:
            logits: of the layer's reference boxes, (..., 4).
            change: what the box head makes of the layer's output, (..., 4).
        """
        return change + self.relative * logits

    def next_boxes(
        self, x: Tensor, logits: Tensor | None, box_head: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the logits of a layer's reference boxes, (B, Q, 4), float32 in mixed precision.

        Args:
            x: (B, Q, C), normalised output of the layer before; for the first one query embeddings.
            logits: of the reference boxes of the layer before; None for the first one.
            box_head: (..., C) -> (..., 4), called without gradient.
        """
        with without_autocast(x.device.type):
            x = x.to(self.initial.weight.dtype)
            if logits is None:
                return self.initial(x)
            with torch.no_grad():
                return self.refine(logits, box_head(x))

    def predictions(self, queries: Tensor, changes: Tensor) -> Tensor:
        """Return the logits of the boxes that the layers predict, (layers, B, Q, 4).

        Args:
            queries: query embeddings, (Q, C).
            changes: what the box head makes of the outputs of all layers, (layers, B, Q, 4).
        """
        logits, found = self.initial(queries), []
        for change in changes:
            found.append(self.refine(logits, change))
            logits = found[-1].detach()
        return torch.stack(found)

    def forward(self, logits: Tensor, mask: Tensor) -> BoxBias:
        """Return the bias of a layer, in float32 whatever autocast says.

        Args:
            logits: of the layer's reference boxes, (B, Q, 4).
            mask: (B, H, W) bool, True on padding.
        """
        with without_autocast(logits.device.type):
            boxes = logits.sigmoid()
            x, y = (centres.to(boxes.dtype) for centres in pixel_centres(mask))
            columns, rows = self.pixels(*edge_offsets(boxes, x, y))
            pairs = None
            if self.pairs is not None:
                pairs = _heads_first(self.pairs(pair_relations(boxes))).flatten(0, 1)
        return BoxBias(rows, columns, pairs)

    def pixels(self, x_offsets: Tensor, y_offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Turn offsets (B, Q, W, 2), (B, Q, H, 2) into bias (B, heads, Q, W), (B, heads, Q, H)."""
        networks = self.get_submodule(f"{self.mode}_offsets")
        assert isinstance(networks, nn.ModuleDict)
        columns, rows = (
            _heads_first(networks[axis](scaled_offsets(offsets, self.mode)))
            for axis, offsets in (("x", x_offsets), ("y", y_offsets))
        )
        return columns, rows


def bias_network(features: int, num_heads: int) -> nn.Sequential:
    """Return a network (..., features) -> (..., num_heads) with one hidden layer."""
    return nn.Sequential(nn.Linear(features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, num_heads))


def _heads_first(bias: Tensor) -> Tensor:
    """(B, Q, n, heads) -> (B, heads, Q, n), contiguous, and so is the larger bias made of it."""
    return bias.permute(0, 3, 1, 2).contiguous()
