"""DETR's set prediction loss (DETR, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from util.box_ops import box_cxcywh_to_xyxy, generalized_box_iou_loss
from util.distributed import all_reduce_sum, get_world_size

from .mask_losses import mask_losses
from .matcher import HungarianMatcher, Matches


class SetCriterion(nn.Module):
    """A loss that matches predictions with objects and supervises each pair's class, box and mask.

    All decoder layers are stacked and go through each loss together, which saves kernel launches
    and waits for the device.

    Args:
        num_classes: classes are 0 .. num_classes - 1, "no object" is num_classes.
        matcher: finds the pairs.
        weight_dict: weight of each loss, by name, in the sum that training minimises.
        eos_coef: weight of "no object" in the cross entropy. Most queries match no object.
    """

    class_weight: Tensor

    def __init__(
        self,
        num_classes: int,
        matcher: HungarianMatcher,
        weight_dict: dict[str, float],
        eos_coef: float,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.weight_dict = weight_dict
        class_weight = torch.ones(num_classes + 1)
        class_weight[-1] = eos_coef
        # A buffer moves with the module; published checkpoints do not hold it, so not persistent.
        self.register_buffer("class_weight", class_weight, persistent=False)

    def forward(self, outputs: dict, targets: list[dict]) -> dict[str, Tensor]:
        """Compute all losses, unweighted.

        Args:
            outputs: what `models.detr.DETR` or `models.segmentation.DETRsegm` returns.
            targets: one dict per image: labels (n,), boxes (n, 4) as (cx, cy, w, h) in [0, 1], and
                if outputs have pred_masks, masks (n, H, W) bool.

        Returns:
            Scalars by name: loss_ce, loss_bbox, loss_giou, with pred_masks loss_mask and loss_dice;
            class_error and cardinality_error, which are only logged. The names for aux_outputs[i]
            end in _i.
        """
        logits, boxes = _stacked(outputs)
        suffixes = [*(f"_{i}" for i in range(len(logits) - 1)), ""]
        matches = outputs["matches"] if "matches" in outputs else self.match(outputs, targets)
        matched, target_labels, target_boxes = self._matched_pairs(matches, targets, boxes.device)
        num_boxes = self._mean_num_boxes(targets, boxes.device)
        by_layer = {
            "loss_ce": self._cross_entropy(logits, matched, target_labels),
            **self._box_losses(boxes[matched], target_boxes, num_boxes),
            "cardinality_error": self._cardinality_error(logits, targets),
        }
        losses = {
            name + suffix: value
            for name, values in by_layer.items()
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }
        if "pred_masks" in outputs:
            losses |= self._mask_losses(outputs, matches[-1], targets, num_boxes)
        losses["class_error"] = self._class_error(logits[matched][-1], target_labels[-1])
        return losses

    def match(self, outputs: dict, targets: list[dict]) -> list[Matches]:
        """Match each decoder layer's predictions, the last layer last; see `HungarianMatcher`."""
        return self.matcher.match_layers(*_stacked(outputs), targets)

    def _matched_pairs(
        self, matches: list[Matches], targets: list[dict], device: torch.device
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
        """Return the matched pairs, M in each layer.

        Returns:
            The index (layer, image, query) of matched predictions, which broadcasts to (layers, M),
            and the labels (layers, M) and boxes (layers, M, 4) of their objects.
        """
        image = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matches[0])])
        query = torch.stack([torch.cat([q for q, _ in layer]) for layer in matches])
        object_idx = torch.stack([torch.cat([o for _, o in layer]) for layer in matches])
        # object_idx counts within an image: shift it to count within the concatenated targets.
        counts = torch.tensor([len(target["labels"]) for target in targets])
        object_idx += (counts.cumsum(0) - counts)[image]
        # One copy to the device for all three, and nobody waits for its end.
        index = torch.stack([image.expand_as(query), query, object_idx])
        index = index.to(device, non_blocking=True)
        layer = torch.arange(len(matches), device=device)[:, None]
        target_labels = torch.cat([target["labels"] for target in targets])[index[2]]
        target_boxes = torch.cat([target["boxes"] for target in targets])[index[2]]
        return (layer, index[0], index[1]), target_labels, target_boxes

    def _mask_losses(
        self, outputs: dict, matches: Matches, targets: list[dict], num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """Return loss_mask and loss_dice of the last layer's matched queries."""
        masks = outputs["pred_masks"]
        if "matches" in outputs:  # then the mask head has drawn matched queries only
            matched_masks = masks.split([len(queries) for queries, _ in matches])
        else:
            matched_masks = [
                image_masks[queries.to(image_masks.device, non_blocking=True)]
                for image_masks, (queries, _) in zip(masks, matches, strict=True)
            ]
        target_masks = [
            target["masks"][objects.to(masks.device, non_blocking=True)]
            for target, (_, objects) in zip(targets, matches, strict=True)
        ]
        return mask_losses(matched_masks, target_masks, num_boxes)

    def _mean_num_boxes(self, targets: list[dict], device: torch.device) -> Tensor:
        """Return the number of objects, averaged over processes, at least 1.

        DDP averages gradients over processes, so that dividing by the mean makes each object count
        the same. In evaluation each process counts its own: an all-reduce would wait forever where
        processes have different numbers of batches.
        """
        count = float(sum(len(target["labels"]) for target in targets))
        num_boxes = torch.full((), count, device=device)  # torch.tensor would wait for a GPU
        if self.training:
            num_boxes = all_reduce_sum(num_boxes) / get_world_size()
        return num_boxes.clamp(min=1)

    def _cross_entropy(self, logits: Tensor, matched: tuple, target_labels: Tensor) -> Tensor:
        """Return the weighted mean over all queries of a batch, (layers,)."""
        classes = logits.new_full(logits.shape[:-1], self.num_classes, dtype=torch.int64)
        classes[matched] = target_labels
        # F.cross_entropy's own weighted mean would be over all layers together.
        terms = F.cross_entropy(
            logits.flatten(0, 2), classes.flatten(), self.class_weight, reduction="none"
        )
        weights = self.class_weight[classes].flatten(1)
        return terms.view_as(weights).sum(1) / weights.sum(1)

    def _box_losses(
        self, boxes: Tensor, target_boxes: Tensor, num_boxes: Tensor
    ) -> dict[str, Tensor]:
        """Return L1 and generalised IoU loss of matched boxes (layers, M, 4), each (layers,)."""
        giou_loss = generalized_box_iou_loss(
            box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(target_boxes)
        )
        return {
            "loss_bbox": (boxes - target_boxes).abs().sum((1, 2)) / num_boxes,
            "loss_giou": giou_loss.sum(1) / num_boxes,
        }

    @torch.no_grad()
    def _class_error(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the percentage of misclassified queries; logits: (M, num_classes + 1)."""
        correct = (logits.argmax(-1) == labels).float()
        return 100 * (1 - correct.sum() / max(len(labels), 1))

    @torch.no_grad()
    def _cardinality_error(self, logits: Tensor, targets: list[dict]) -> Tensor:
        """Return the mean absolute error of the predicted number of objects, (layers,)."""
        predicted = (logits.argmax(-1) != self.num_classes).sum(2)
        present = torch.tensor([len(target["labels"]) for target in targets])
        present = present.to(logits.device, non_blocking=True)
        return (predicted - present).abs().float().mean(1)


def _stacked(outputs: dict) -> tuple[Tensor, Tensor]:
    """Stack logits (layers, B, Q, num_classes + 1) and boxes (layers, B, Q, 4) of all layers."""
    layers = [*outputs.get("aux_outputs", ()), outputs]
    logits = torch.stack([layer["pred_logits"] for layer in layers])
    return logits, torch.stack([layer["pred_boxes"] for layer in layers])
