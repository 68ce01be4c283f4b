"""The DETR detector (Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020)."""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.misc import NestedTensor, nested_tensor_from_tensor_list

from . import NUM_CLASSES
from .autocast import without_autocast
from .backbone import Joiner, build_backbone
from .criterion import SetCriterion
from .matcher import build_matcher
from .postprocess import PostProcess, PostProcessPanoptic, PostProcessSegm
from .segmentation import DETRsegm
from .transformer import Transformer, build_transformer

__all__ = ["DETR", "MLP", "PostProcess", "SetCriterion", "build"]


class TransformerOutput(NamedTuple):
    """What backbone and transformer make of a batch: the input of the heads.

    Attributes:
        features: backbone maps (B, C_i, H_i, W_i) with masks, from fine to coarse.
        source: the coarsest map, projected to the transformer's width, (B, C, H, W).
        hidden: outputs of all decoder layers, (layers, B, Q, C).
        memory: output of the encoder, (B, C, H, W).
    """

    features: list[NestedTensor]
    source: Tensor
    hidden: Tensor
    memory: Tensor


class DETR(nn.Module):
    """Backbone, transformer, and two heads that predict a class and a box for each object query.

    Args:
        backbone: makes feature maps and their APE of images.
        transformer: encodes the last map and decodes the object queries.
        num_classes: class ids 0 .. num_classes - 1; one more logit means "no object".
        num_queries: largest number of objects detected in an image.
        aux_loss: also return the predictions of the earlier decoder layers.
    """

    def __init__(
        self,
        backbone: Joiner,
        transformer: Transformer,
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
            samples: padded images with their mask, or a list of (3, H_i, W_i), or a batch
                (B, 3, H, W) without padding.

        Returns:
            A dict with
            pred_logits: (B, Q, num_classes + 1), the last class is "no object".
            pred_boxes: (B, Q, 4), (cx, cy, w, h) in [0, 1], relative to the unpadded image.
            aux_outputs: with aux_loss, a list of such dicts, one for each earlier decoder layer.
        """
        return self.predict(self.encode(samples).hidden)

    def encode(self, samples: NestedTensor | Tensor | Sequence[Tensor]) -> TransformerOutput:
        """Run backbone and transformer on what `forward` takes."""
        if not isinstance(samples, NestedTensor):
            samples = nested_tensor_from_tensor_list(samples)
        features, position = self.backbone(samples)
        tensors, mask = features[-1].decompose()
        source = self.input_proj(tensors)
        queries = self.query_embed.weight
        hidden, memory = self.transformer(source, mask, queries, position, self.bbox_embed)
        return TransformerOutput(features, source, hidden, memory)

    def predict(self, hidden: Tensor) -> dict:
        """Predict classes and boxes from decoder outputs (layers, B, Q, C); see `forward`."""
        references = self.transformer.decoder.references
        if not self.aux_loss and references is None:  # else each layer's boxes refine the last's
            hidden = hidden[-1:]
        with without_autocast(hidden.device.type):
            # With the 8 bits of a bfloat16 mantissa a box would be off by several pixels. The heads
            # are small, so float32 costs nothing.
            if hidden.dtype in (torch.bfloat16, torch.float16):
                hidden = hidden.float()
            logits = self.class_embed(hidden)
            boxes = self.bbox_embed(hidden)
            if references is not None:
                boxes = references.predictions(self.query_embed.weight, boxes)
            boxes = boxes.sigmoid()
        layers = [
            {"pred_logits": layer_logits, "pred_boxes": layer_boxes}
            for layer_logits, layer_boxes in zip(logits, boxes, strict=True)
        ]
        outputs = layers.pop()
        if self.aux_loss:
            outputs["aux_outputs"] = layers
        return outputs


class MLP(nn.Module):
    """Linear layers with a ReLU between each two (DETR calls this a feed-forward network)."""

    def __init__(self, input_dim: int, hidden_dim: int, output_dim: int, num_layers: int):
        super().__init__()
        sizes = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., input_dim) -> (..., output_dim)."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def build(
    args: argparse.Namespace,
) -> tuple[DETR | DETRsegm, SetCriterion, dict[str, nn.Module]]:
    """Build what `args` describes (see `arguments.get_args_parser`).

    Returns:
        model, criterion, and the postprocessors by the kind of prediction: "bbox", with --masks
        "segm", and for panoptic data "panoptic".
    """
    num_classes = args.num_classes
    if num_classes is None:
        num_classes = NUM_CLASSES[args.dataset_file]
    detr = DETR(
        build_backbone(args),
        build_transformer(args),
        num_classes=num_classes,
        num_queries=args.num_queries,
        aux_loss=args.aux_loss,
    )
    weight_dict = {
        "loss_ce": 1,
        "loss_bbox": args.bbox_loss_coef,
        "loss_giou": args.giou_loss_coef,
    }
    model: DETR | DETRsegm = detr
    postprocessors: dict[str, nn.Module] = {"bbox": PostProcess()}
    if args.masks:
        frozen = bool(args.frozen_weights)
        model = DETRsegm(detr, frozen, args.gradient_checkpointing)
        weight_dict |= {"loss_mask": args.mask_loss_coef, "loss_dice": args.dice_loss_coef}
        postprocessors["segm"] = PostProcessSegm()
        if args.dataset_file == "coco_panoptic":
            postprocessors["panoptic"] = PostProcessPanoptic()
    if args.aux_loss:
        aux_weights = {
            f"{name}_{i}": weight
            for i in range(args.dec_layers - 1)
            for name, weight in weight_dict.items()
        }
        weight_dict.update(aux_weights)
    criterion = SetCriterion(num_classes, build_matcher(args), weight_dict, args.eos_coef)
    return model, criterion, postprocessors
