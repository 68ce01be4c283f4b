"""DETR's set prediction loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from util.box_ops import box_cxcywh_to_xyxy
from util.dist import all_reduce_sum, get_world_size

Matches = list[tuple[Tensor, Tensor]]


class SetCriterion(nn.Module):
    """Match predictions with objects, then supervise each matched pair's class and box.

    Args:
        num_classes: class ids 0 .. num_classes - 1, "no object" is num_classes.
        matcher: see `models.matcher.HungarianMatcher`.
        weight_dict: what each loss counts in the sum that is minimised, by name.
        eos_coef: weight of "no object" in the cross entropy.
    """

    def __init__(
        self, num_classes: int, matcher: nn.Module, weight_dict: dict[str, float], eos_coef: float
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = weight_dict
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        # Follows the module's device but is no part of a checkpoint's weights.
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, outputs: dict, targets: list[dict]) -> dict[str, Tensor]:
        """All losses by name, not yet weighted; those of aux_outputs[i] end in _i.

        Args:
            outputs: what `models.detr.DETR` returns.
            targets: one a image: labels (n,), boxes (n, 4) as (cx, cy, w, h) in [0, 1].
        """
        num_boxes = self._mean_num_boxes(targets, outputs["pred_boxes"].device)
        layers = {"": outputs}
        layers.update((f"_{i}", aux) for i, aux in enumerate(outputs.get("aux_outputs", ())))
        losses = {}
        for suffix, layer in layers.items():
            matches = self.matcher(layer, targets)
            of_layer = {
                **self.loss_labels(layer, targets, matches),
                **self.loss_boxes(layer, targets, matches, num_boxes),
                **self.cardinality(layer, targets),
            }
            if suffix:
                del of_layer["class_error"]  # logged for the last layer only
            losses.update((name + suffix, loss) for name, loss in of_layer.items())
        return losses

    def _mean_num_boxes(self, targets: list[dict], device: torch.device) -> Tensor:
        """Objects per process, at least 1.

        In evaluation processes may have different numbers of batches, so each counts its own.
        """
        num_boxes = torch.tensor(
            sum(len(target["labels"]) for target in targets), dtype=torch.float32, device=device
        )
        if self.training:
            num_boxes = all_reduce_sum(num_boxes) / get_world_size()
        return num_boxes.clamp(min=1)

    def loss_labels(self, outputs: dict, targets: list[dict], matches: Matches) -> dict:
        """Weighted cross entropy over all queries; class_error in percent of matched ones."""
        logits = outputs["pred_logits"]
        picked = _picked_queries(matches, logits.device)
        labels = torch.cat([t["labels"][objects] for t, (_, objects) in _pairs(targets, matches)])
        classes = labels.new_full(logits.shape[:2], self.num_classes)
        classes[picked] = labels
        correct = (logits[picked].argmax(-1) == labels).float()
        return {
            "loss_ce": F.cross_entropy(logits.transpose(1, 2), classes, self.class_weight),
            "class_error": 100 * (1 - correct.sum() / max(len(labels), 1)),
        }

    def loss_boxes(
        self, outputs: dict, targets: list[dict], matches: Matches, num_boxes: Tensor
    ) -> dict:
        """L1 and generalised IoU loss of matched pairs, summed, divided by `num_boxes`."""
        picked = _picked_queries(matches, outputs["pred_boxes"].device)
        boxes = outputs["pred_boxes"][picked]
        wanted = torch.cat([t["boxes"][objects] for t, (_, objects) in _pairs(targets, matches)])
        giou_loss = generalized_box_iou_loss(
            box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(wanted), reduction="sum", eps=0
        )
        return {
            "loss_bbox": F.l1_loss(boxes, wanted, reduction="sum") / num_boxes,
            "loss_giou": giou_loss / num_boxes,
        }

    @torch.no_grad()
    def cardinality(self, outputs: dict, targets: list[dict]) -> dict:
        """Mean absolute error of the number of objects predicted; only logged."""
        logits = outputs["pred_logits"]
        found = (logits.argmax(-1) != self.num_classes).sum(1)
        present = torch.tensor([len(t["labels"]) for t in targets], device=logits.device)
        return {"cardinality_error": F.l1_loss(found.float(), present.float())}


def _pairs(targets: list[dict], matches: Matches) -> list[tuple[dict, tuple[Tensor, Tensor]]]:
    return list(zip(targets, matches, strict=True))


def _picked_queries(matches: Matches, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indexes (image, query) of all matched queries of a batch."""
    images = torch.cat([torch.full_like(queries, i) for i, (queries, _) in enumerate(matches)])
    queries = torch.cat([queries for queries, _ in matches])
    return images.to(device), queries.to(device)
