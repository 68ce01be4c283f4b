"""One-to-one assignment of predictions to objects."""

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from util.box_ops import box_cxcywh_to_xyxy

Matches = list[tuple[Tensor, Tensor]]
NOT_FINITE = -1e9  # cheaper than any prediction can be


class HungarianMatcher(nn.Module):
    """The assignment with the least total cost (DETR, eq. 1).

    The cost of giving an object to a query is cost_bbox * L1 distance of the boxes
    - cost_class * probability of the object's class - cost_giou * generalised IoU.
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
            targets: one a image: labels (n,) int64, boxes (n, 4) as (cx, cy, w, h) in [0, 1].

        Returns:
            One a image: (queries, objects), both (min(Q, n),) int64 on the CPU, so that
            queries[i] answers for objects[i].
        """
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        return self.match_layers(logits[None], boxes[None], targets)[0]

    @torch.no_grad()
    def match_layers(self, logits: Tensor, boxes: Tensor, targets: list[dict]) -> list[Matches]:
        """Match the predictions of several decoder layers; waits for the device once.

        Args:
            logits: (layers, B, Q, num_classes + 1).
            boxes: (layers, B, Q, 4).

        Returns:
            For each layer what `forward` returns.
        """
        costs = self._costs(logits, boxes, targets).cpu()
        # Predictions that are not finite come first, so that the loss is not finite either, which
        # the caller finds out together with the other processes.
        costs = torch.where(costs.isfinite(), costs, torch.full_like(costs, NOT_FINITE))
        layers = []
        for of_layer in costs:
            matches = []
            for cost, target in zip(of_layer, targets, strict=True):
                cost = cost[:, : len(target["labels"])]
                matches.append(tuple(map(torch.as_tensor, linear_sum_assignment(cost.numpy()))))
            layers.append(matches)
        return layers

    def _costs(self, logits: Tensor, boxes: Tensor, targets: list[dict]) -> Tensor:
        """(layers, B, Q, n), n the most objects of an image; of no meaning beyond an image's."""
        labels = _padded([target["labels"] for target in targets])  # (B, n)
        wanted = _padded([target["boxes"] for target in targets])[:, None]  # (B, 1, n, 4)
        picked = labels[None, :, None].expand(*logits.shape[:3], -1)
        probability = logits.softmax(-1).gather(-1, picked)
        boxes = boxes.unsqueeze(-2)  # (layers, B, Q, 1, 4)
        distance = (boxes - wanted).abs().sum(-1)
        giou_loss = generalized_box_iou_loss(
            *torch.broadcast_tensors(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted)), eps=0
        )
        # 1 - giou_loss is the generalised IoU; a constant does not change who is the cheapest.
        return (
            self.cost_bbox * distance - self.cost_class * probability + self.cost_giou * giou_loss
        )


def _padded(tensors: list[Tensor]) -> Tensor:
    """[(n_i, ...)] -> (len(tensors), largest n_i, ...), zero behind the end."""
    most = max(len(tensor) for tensor in tensors)
    rest = [0, 0] * (tensors[0].dim() - 1)
    return torch.stack([F.pad(tensor, [*rest, 0, most - len(tensor)]) for tensor in tensors])
