"""Run an image through a detector, and draw the attention that its tokens and queries pay."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from util.errors import UserError

from .attention_maps import run_with_attention
from .plots import Row, draw_attention, draw_box_bias, draw_decoder
from .token_grid import Point, TokenGrid
from .view import AttentionView
from .windows import on_click, show_windows


class InspectedImage:
    """An image that has gone through the detector of a view.

    Attributes:
        record: the pass.
        grid: the tokens' places on the image.
        title: of figures.
        middle: of the image, a point.
    """

    def __init__(self, view: AttentionView, image: Image.Image, name: str):
        batch = view.detector.prepare([image])
        self.view, self.image, self._orig_sizes = view, image, batch.orig_sizes
        self.record = run_with_attention(view.detector.model, batch.samples)
        size, orig_size = tuple(batch.sizes[0].tolist()), image.size[::-1]
        self.grid = TokenGrid(self.record.hw, view.detector.stride, size, orig_size)
        height, width = self.record.hw
        self.title = f"{name}, seen as {height} x {width} tokens"
        self.middle = (image.width / 2, image.height / 2)

    def attention(
        self, points: list[Point], figure: Figure | None = None
    ) -> tuple[dict[str, np.ndarray], Figure | None]:
        """Return the encoder's attention of points as arrays and as a figure.

        Args:
            figure: to draw on; a new one by default.

        Returns:
            Arrays as `AttentionView.attention`, with points and tokens. The figure is None if the
            encoder has no layers.
        """
        tokens = [self.grid.token_at(*point) for point in points]
        arrays = {"points": np.array(points), "tokens": np.array(tokens)}
        if not self.view.layers:
            return arrays, None
        arrays |= self.view.attention(self.record, tokens)
        parts = [arrays.get(name) for name in ("attention", "attention_without", "attention_term")]
        rows = [
            Row(f"layer {layer}, {head}", point, *(a if a is None else a[p, i, j] for a in parts))
            for p, point in enumerate(points)
            for i, layer in enumerate(self.view.layers)
            for j, head in enumerate(self.view.heads)
        ]
        return arrays, draw_attention(self.image, self.grid.extent, rows, self.title, figure)

    def decoder(self, threshold: float) -> tuple[dict[str, np.ndarray], Figure]:
        """Return the decoder's attention of each detection as arrays and as a figure."""
        detections, maps = self.view.decoder(self.record, self._orig_sizes, threshold)
        arrays = {f"decoder_{n}": detections[n].numpy() for n in ("boxes", "scores", "labels")}
        arrays |= {
            "decoder_attention": maps,
            "decoder_names": np.array(detections["names"], dtype=str),
        }
        title = (
            f"{len(maps)} detection(s) with a score of at least {threshold:g}: attention of the "
            "last decoder layer, mean of its heads"
        )
        return arrays, draw_decoder(self.image, self.grid.extent, maps, detections, title)

    def box_bias(self, threshold: float) -> tuple[dict[str, np.ndarray], Figure]:
        """Return what each detection's reference box adds to the decoder's logits; see `decoder`.

        The model has reference boxes (--dec_rpe).
        """
        detections, boxes, maps = self.view.box_bias(self.record, self._orig_sizes, threshold)
        title = (
            f"{len(maps)} detection(s): what the query's reference box (dashed) adds to the logits "
            "of the last decoder layer"
        )
        extent, heads = self.grid.extent, self.view.heads
        figure = draw_box_bias(self.image, extent, maps, boxes, detections, heads, title)
        return {"decoder_references": boxes, "decoder_box_bias": maps}, figure

    def open_window(self) -> None:
        """Show the attention of the middle, and then of each point that is clicked."""
        _, figure = self.attention([self.middle])
        if figure is None:
            raise UserError("--click: the encoder has no layers, and so no attention")

        def redraw(x: float, y: float) -> None:
            if self.grid.contains(x, y):
                self.attention([(round(x), round(y))], figure)

        on_click(figure, redraw)
        show_windows()
