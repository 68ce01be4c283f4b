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
        labels = torch.cat([target["labels"] for target in targets])
        wanted = torch.cat([target["boxes"] for target in targets])
        batch, queries = outputs["pred_logits"].shape[:2]
        probability = outputs["pred_logits"].flatten(0, 1).float().softmax(-1)[:, labels]
        boxes = outputs["pred_boxes"].flatten(0, 1).float()
        overlap = generalized_box_iou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted))
        cost = (
            self.cost_bbox * torch.cdist(boxes, wanted, p=1)
            - self.cost_class * probability
            - self.cost_giou * overlap
        )
        # Every query against the objects of all images, of which each image takes its own.
        of_images = (
            cost.view(batch, queries, -1).cpu().split([len(t["labels"]) for t in targets], 2)
        )
        matches = []
        for i, target in enumerate(targets):
            cost = of_images[i][i]
            if not cost.isfinite().all():
                raise UserError(
                    f"image {target['image_id'].item()}: the predictions are not finite, training "
                    "has diverged; lower --lr or check the weights it started from"
                )
            matches.append(tuple(map(torch.as_tensor, linear_sum_assignment(cost.numpy()))))
        return matches
