"""One-to-one assignment of predictions to objects."""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou

from util.box_ops import box_cxcywh_to_xyxy
from util.errors import UserError


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

    @torch.no_grad()
    def forward(self, outputs: dict, targets: list[dict]) -> list[tuple[Tensor, Tensor]]:
        """Match each image's predictions with its objects.

        Args:
            outputs: pred_logits (B, Q, num_classes + 1), pred_boxes (B, Q, 4).
            targets: one a image: labels (n,) int64, boxes (n, 4) as (cx, cy, w, h) in [0, 1].

        Returns:
            One a image: (queries, objects), both (min(Q, n),) int64 on the CPU, so that
            queries[i] answers for objects[i].

        Raises:
            UserError: predictions are not finite.
        """
        matches = []
        for logits, boxes, target in zip(
            outputs["pred_logits"], outputs["pred_boxes"], targets, strict=True
        ):
            probability = logits.float().softmax(-1)[:, target["labels"]]
            distance = torch.cdist(boxes.float(), target["boxes"], p=1)
            overlap = generalized_box_iou(
                box_cxcywh_to_xyxy(boxes.float()), box_cxcywh_to_xyxy(target["boxes"])
            )
            cost = (
                self.cost_bbox * distance - self.cost_class * probability - self.cost_giou * overlap
            ).cpu()
            if not cost.isfinite().all():
                raise UserError(
                    f"image {target['image_id'].item()}: the predictions are not finite, training "
                    "has diverged; lower --lr or check the weights it started from"
                )
            matches.append(tuple(map(torch.as_tensor, linear_sum_assignment(cost))))
        return matches
