"""One-to-one assignment of predictions to objects."""

import argparse

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, generalized_box_iou_loss

Matches = list[tuple[Tensor, Tensor]]
COST_OF_NOT_FINITE = -1e9  # below any real cost


class HungarianMatcher(nn.Module):
    """A matcher that finds the assignment with the least total cost (DETR, eq. 1).

    The cost of a pair of query and object is

        cost_bbox * L1(boxes) - cost_class * probability of the object's class - cost_giou * GIoU
    """

    def __init__(self, cost_class: float = 1, cost_bbox: float = 1, cost_giou: float = 1):
        super().__init__()
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou

    def forward(self, outputs: dict, targets: list[dict]) -> Matches:
        """Match each image's predictions with its objects.

        Args:
            outputs: pred_logits (B, Q, num_classes + 1), pred_boxes (B, Q, 4).
            targets: one dict per image: labels (n,) int64, boxes (n, 4) as (cx, cy, w, h) in
                [0, 1].

        Returns:
            One pair (queries, objects) per image, both (min(Q, n),) int64 on the CPU: query
            queries[i] is matched with object objects[i].
        """
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        return self.match_layers(logits[None], boxes[None], targets)[0]

    @torch.no_grad()
    def match_layers(self, logits: Tensor, boxes: Tensor, targets: list[dict]) -> list[Matches]:
        """Match the predictions of several decoder layers, with one copy from the device.

        Args:
            logits: (layers, B, Q, num_classes + 1).
            boxes: (layers, B, Q, 4).
            targets: see `forward`.

        Returns:
            For each layer what `forward` returns.
        """
        costs = self._costs(logits, boxes, targets).cpu()
        # linear_sum_assignment raises on NaN, and a process that raised here alone would leave the
        # others waiting in an all-reduce. Matched first, such predictions make the loss not finite
        # instead, which the training loop checks on all processes together.
        costs = torch.where(costs.isfinite(), costs, torch.full_like(costs, COST_OF_NOT_FINITE))
        layers = []
        for layer_costs in costs:
            matches = []
            for cost, target in zip(layer_costs, targets, strict=True):
                cost = cost[:, : len(target["labels"])]
                queries, objects = map(torch.as_tensor, linear_sum_assignment(cost.numpy()))
                matches.append((queries, objects))
            layers.append(matches)
        return layers

    def _costs(self, logits: Tensor, boxes: Tensor, targets: list[dict]) -> Tensor:
        """Return the costs (layers, B, Q, n), n the largest number of objects in an image.

        The columns after an image's own objects are padding, without meaning.
        """
        labels = _padded([target["labels"] for target in targets])  # (B, n)
        target_boxes = _padded([target["boxes"] for target in targets])[:, None]  # (B, 1, n, 4)
        class_idx = labels[None, :, None].expand(*logits.shape[:3], -1)
        probability = logits.softmax(-1).gather(-1, class_idx)
        boxes = boxes.unsqueeze(-2)  # (layers, B, Q, 1, 4)
        distance = (boxes - target_boxes).abs().sum(-1)
        giou_loss = generalized_box_iou_loss(*map(box_cxcywh_to_xyxy, (boxes, target_boxes)))
        # GIoU = 1 - giou_loss, and a constant in all costs does not change the best assignment.
        return (
            self.cost_bbox * distance - self.cost_class * probability + self.cost_giou * giou_loss
        )


def _padded(tensors: list[Tensor]) -> Tensor:
    """Stack tensors (n_i, ...) to (len(tensors), largest n_i, ...), padded with zeros."""
    most = max(len(tensor) for tensor in tensors)
    rest = [0, 0] * (tensors[0].dim() - 1)
    return torch.stack([F.pad(tensor, [*rest, 0, most - len(tensor)]) for tensor in tensors])


def build_matcher(args: argparse.Namespace) -> HungarianMatcher:
    """Build the matcher with the costs of `args`."""
    return HungarianMatcher(args.set_cost_class, args.set_cost_bbox, args.set_cost_giou)
