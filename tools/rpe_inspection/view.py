"""Read tables and attention of chosen layers and heads of a detector as arrays."""

import numpy as np
import torch
from torch import Tensor

from datasets.transforms import MAX_SIZE, scaled
from detector import Detector
from util.box_ops import box_cxcywh_to_xyxy

from .attention_maps import (
    ForwardRecord,
    decompose_attention,
    rpe_inputs,
    transformer_of,
)
from .choice import LayersAndHeads, Table, to_numpy
from .decomposition import rpe_modules


class AttentionView(LayersAndHeads):
    """A detector, and the n layers and m heads of its encoder that are shown.

    Args, attributes and errors are those of `LayersAndHeads`.
    """

    def __init__(self, detector: Detector, layers: list[int] | None, heads: str | list[int] | None):
        self.detector = detector
        encoder = transformer_of(detector.model).encoder.layers
        rpe = [rpe_modules(layer.self_attn) for layer in encoder]
        super().__init__(rpe, detector.args.nheads, layers, heads, "the encoder")

    def tables(
        self, radius: int | None, record: ForwardRecord | None, largest: tuple[int, int]
    ) -> list[Table]:
        """Return the RPE tables, see `LayersAndHeads.layer_tables`.

        Args:
            record: a pass of one image, whose queries and keys contextual RPE is measured with;
                None for the norm of its vectors.
            largest: see `largest_training_map`.
        """
        if record is None:
            return self.layer_tables(radius, None, None, largest)
        return self.layer_tables(
            radius, lambda i: rpe_inputs(*record.encoder[i]), record.hw, largest
        )

    def attention(
        self, record: ForwardRecord, tokens: list[tuple[int, int]]
    ) -> dict[str, np.ndarray]:
        """Return the attention of tokens in the encoder.

        Args:
            record: a pass of one image.
            tokens: row and column of p tokens in the feature map of h x w.

        Returns:
            Arrays (p, n, m, h, w) float32: attention, as the model computes it; and if RPE acts on
            logits, attention_without RPE, and attention_term, what RPE adds to the logits.
        """
        places = [row * record.hw[1] + column for row, column in tokens]
        by_layer: dict[str, list] = {}
        for i in self.layers:
            selected = decompose_attention(*record.encoder[i]).select_queries(places)
            parts = {"attention": selected.weights}
            if selected.term is not None:
                parts["attention_without"] = selected.weights_without
                parts["attention_term"] = selected.term
            for name, part in parts.items():
                maps = self.chosen_heads(part[0]).swapaxes(0, 1)  # (p, m, h * w)
                by_layer.setdefault(name, []).append(maps.reshape(*maps.shape[:2], *record.hw))
        return {name: np.stack(maps, axis=1) for name, maps in by_layer.items()}

    def decoder(
        self, record: ForwardRecord, orig_sizes: Tensor, threshold: float
    ) -> tuple[dict, np.ndarray]:
        """Return the last decoder layer's attention of the queries that have found something.

        Args:
            record: a pass of one image.
            orig_sizes: (1, 2), its height and width.
            threshold: lowest score of a detection.

        Returns:
            d detections as from `Detector`, and (d, h, w) float32, the mean of the heads.
        """
        detections, queries = self._detections(record, orig_sizes, threshold)
        weights = decompose_attention(*record.decoder).select_queries(queries).weights[0]
        return detections, to_numpy(weights.mean(0).unflatten(-1, record.hw))

    def box_bias(
        self, record: ForwardRecord, orig_sizes: Tensor, threshold: float
    ) -> tuple[dict, np.ndarray, np.ndarray]:
        """Return what reference boxes add to the last decoder layer's logits, see `decoder`.

        The model has reference boxes (--dec_rpe).

        Returns:
            d detections; their queries' reference boxes (d, 4) float32, (x0, y0, x1, y1) in pixels
            of the image; and the bias (d, m, h, w) float32.
        """
        assert record.references is not None
        detections, queries = self._detections(record, orig_sizes, threshold)
        _, call = record.decoder
        bias = call["attn_mask"][:, queries].unflatten(-1, record.hw)  # of one image: (H, d, h, w)
        height, width = orig_sizes[0].tolist()
        boxes = box_cxcywh_to_xyxy(record.references[0, queries]).cpu()
        pixels = to_numpy(boxes * torch.tensor([width, height, width, height]))
        return detections, pixels, self.chosen_heads(bias).swapaxes(0, 1)

    def _detections(
        self, record: ForwardRecord, orig_sizes: Tensor, threshold: float
    ) -> tuple[dict, list[int]]:
        """Return detections, and the numbers of their queries."""
        result = self.detector.postprocessors["bbox"](record.outputs, orig_sizes)[0]
        result["queries"] = torch.arange(len(result["scores"]), device=result["scores"].device)
        detections = self.detector.filter_detections(result, threshold)
        return detections, detections.pop("queries").tolist()


def largest_training_map(detector: Detector) -> tuple[int, int]:
    """Return shorter and longer side, in tokens, of the largest feature map of a training.

    They follow from the checkpoint's options: images have a shorter side of image_size, and a
    longer one up to DETR's limit.
    """
    size = detector.args.image_size
    short, long = (-(-side // detector.stride) for side in (size, scaled(MAX_SIZE, size)))
    return short, long
