"""Run an image through a classifier, and draw what its tokens attend to, layer by layer."""

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from classification.classifier import Classifier
from classification.data.evaluated_images import resized_size
from tools.rpe_inspection.choice import LayersAndHeads, Table
from tools.rpe_inspection.decomposition import Attention
from tools.rpe_inspection.plots import Row, draw_attention
from tools.rpe_inspection.token_grid import Point, TokenGrid
from tools.rpe_inspection.windows import on_click, show_windows
from util.errors import UserError

from .attention import (
    Record,
    attention_layers,
    block_attention,
    rpe_inputs,
    run_with_attention,
    shown_modules,
)

EXTRA_NAMES = ("class token", "distillation token")


class ClassifierView(LayersAndHeads):
    """A classifier, and the n layers and m heads that are shown; see `LayersAndHeads`."""

    def __init__(
        self, classifier: Classifier, layers: list[int] | None, heads: str | list[int] | None
    ):
        self.classifier = classifier
        attention = attention_layers(classifier.model)
        rpe = [
            shown_modules(layer, is_last=i == len(attention) - 1)
            for i, layer in enumerate(attention)
        ]
        super().__init__(rpe, classifier.options.num_heads, layers, heads, "the model")

    def tables(self, radius: int | None, record: Record | None) -> list[Table]:
        """Return the RPE tables; see `LayersAndHeads.layer_tables`.

        Args:
            record: a pass of one image, whose queries and keys contextual RPE is measured with;
                None for the norm of its vectors.
        """
        short, long = sorted(self.classifier.options.saved_grid)
        if record is None:
            return self.layer_tables(radius, None, None, (short, long))
        hw = (record.tokens.height, record.tokens.width)
        return self.layer_tables(radius, lambda i: rpe_inputs(record, i), hw, (short, long))


class InspectedImage:
    """An image that has gone through the classifier of a view.

    Attributes:
        record: the pass.
        grid: the patches' places on the image, of which the model sees a part.
        title: of figures.
        middle: of the image, a point.
    """

    def __init__(self, view: ClassifierView, image: Image.Image, name: str):
        classifier = view.classifier
        self.view, self.image = view, image
        batch = classifier.transform(image)[None].to(classifier.device)
        self.record = run_with_attention(classifier.model, batch)
        self.grid = token_grid(
            (image.height, image.width), classifier.options.img_size, classifier.options.patch_size
        )
        best = int(self.record.logits[0].argmax())
        probability = float(self.record.logits[0].softmax(-1)[best])
        rows, columns = self.grid.hw
        self.title = (
            f"{name}, seen as {rows} x {columns} patches: {classifier.classes[best]:.60} "
            f"{probability:.0%}"
        )
        self.middle = (image.width / 2, image.height / 2)

    def attention(self, layer: int, points: list[Point]) -> dict[str, np.ndarray]:
        """Return the attention of extra tokens and points to all patches.

        Returns:
            Arrays (p, m, h, w) float32 of p tokens, the extra ones first: attention, as the model
            computes it; and if RPE acts on logits, attention_without RPE, and attention_term, what
            RPE adds to the logits; share (p, m), that of attention on extra tokens. In the last
            layer, where patches' queries reach no logit, p are the extra tokens alone.
        """
        height, width, skip = self.record.tokens
        places = list(range(skip))
        if not self.record.is_last(layer):
            tokens = [self.grid.token_at(*point) for point in points]
            places += [skip + row * width + column for row, column in tokens]
        parts = _parts(block_attention(self.record, layer).select_queries(places))
        arrays = {
            name: self.view.chosen_heads(part[0]).swapaxes(0, 1) for name, part in parts.items()
        }
        share = arrays["attention"][..., :skip].sum(-1)
        maps = {
            name: part[..., skip:].reshape(*part.shape[:2], height, width)
            for name, part in arrays.items()
        }
        return {**maps, "share": share}

    def rows(self, layer: int, points: list[Point], arrays: dict[str, np.ndarray]) -> list[Row]:
        """Return the attention of a layer, as from `attention`, as rows of a figure."""
        names = ("attention_without", "attention_term")
        places: list[Point | None] = [*[None] * self.record.tokens.skip, *points]
        extra = "class token" if self.record.tokens.skip == 1 else "extra tokens"
        return [
            Row(
                f"layer {layer}, {head}\n{EXTRA_NAMES[p] if place is None else 'patch'}, "
                f"{arrays['share'][p, j]:.0%} on {extra}",
                place,
                arrays["attention"][p, j],
                *(arrays[name][p, j] if name in arrays else None for name in names),
            )
            for p, place in enumerate(places[: len(arrays["share"])])
            for j, head in enumerate(self.view.heads)
        ]

    def layer_figure(self, layer: int, points: list[Point]) -> tuple[dict[str, np.ndarray], Figure]:
        """Return the attention of a layer as arrays, see `attention`, and as a figure."""
        arrays = self.attention(layer, points)
        title = self.title
        if self.record.is_last(layer):
            title += "\nlast layer: patches' queries reach no logit, its encoding on keys none"
        rows = self.rows(layer, points, arrays)
        return arrays, draw_attention(self.image, self.grid.extent, rows, title)

    def open_window(self) -> None:
        """Show the attention of the middle in all layers, and then of each clicked point."""
        layers = [layer for layer in self.view.layers if not self.record.is_last(layer)]
        if not layers:
            raise UserError("--click: patches' queries of the last layer reach no logit")

        def draw(point: Point, figure: Figure | None = None) -> Figure:
            rows = []
            for layer in layers:
                arrays = self.attention(layer, [point])
                rows += self.rows(layer, [point], arrays)[-len(self.view.heads) :]
            return draw_attention(self.image, self.grid.extent, rows, self.title, figure)

        def redraw(x: float, y: float) -> None:
            if self.grid.contains(x, y):
                draw((round(x), round(y)), figure)

        figure = draw(self.middle)
        on_click(figure, redraw)
        show_windows()


def token_grid(
    size: tuple[int, int], img_size: tuple[int, int], patch_size: tuple[int, int]
) -> TokenGrid:
    """Return where the patches lie on an image that is prepared for evaluation.

    Args:
        size: height and width of the image in pixels.
        img_size: those of the crop, which the model sees.
    """
    resized = resized_size(size, img_size)
    # As torchvision's crop of the middle, in pixels of the resized image.
    cut = [round((whole - part) / 2) for whole, part in zip(resized, img_size)]
    top, left = (place * before / after for place, before, after in zip(cut, size, resized))
    rows, columns = (side // patch for side, patch in zip(img_size, patch_size))
    in_patches = (resized[0] / patch_size[0], resized[1] / patch_size[1])
    return TokenGrid((rows, columns), 1, in_patches, size, (top, left))


def _parts(attention: Attention) -> dict:
    parts = {"attention": attention.weights}
    if attention.term is not None:
        parts["attention_without"] = attention.weights_without
        parts["attention_term"] = attention.term
    return parts
