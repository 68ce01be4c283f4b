"""What is drawn on images: where captions lie, what covers what, and colours."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from util.pictures import drawing
from util.pictures.colours import COLOURS, colour_of, ink_on
from util.pictures.drawing import Canvas, Caption, drawn_on, segments_on
from util.pictures.grid import CELL, GAP, write_grid
from util.plot_utils import draw_caption

GREY = (119, 119, 119)


def found(*rows, **more):
    """Detections of rows (label, score, (x0, y0, x1, y1))."""
    labels, scores, boxes = zip(*rows, strict=True)
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "scores": torch.tensor(scores),
        "labels": torch.tensor(labels),
        "names": [f"name {label}" for label in labels],
        **more,
    }


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.fixture
def texts(monkeypatch):
    """Collect (text, left, top, right, bottom) of what is written, as Pillow measures it."""
    written = []
    write = drawing.ImageDraw.ImageDraw.text

    def collect(draw, corner, text, ink, font):
        written.append((text, *draw.textbbox(corner, text, font)))
        write(draw, corner, text, ink, font)

    monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "text", collect)
    return written


@pytest.mark.parametrize("size", [(96, 96), (640, 480), (480, 640), (3000, 2000), (60, 400)])
def test_captions_lie_inside_of_the_picture(size, texts):
    width, height = size
    corners = itertools.product((-50, 0, 0.9 * width), (-50, 0, 0.9 * height))
    boxes = [(x, y, x + width / 2, y + height / 2) for x, y in corners]
    detections = found(*((i, 0.9 - i / 100, box) for i, box in enumerate(boxes)))
    detections["names"][3] = "a name that is wider than many a picture is " * 3 + "end\n\x1b[2J"
    picture = drawn_on(Image.new("RGB", size, GREY), detections)
    assert len(texts) == len(boxes)
    for text, left, top, right, bottom in texts:
        assert left >= 0 and top >= 0 and right <= picture.width and bottom <= picture.height, text
        assert text.isprintable()
    (long,) = (text for text, *_ in texts if text.startswith("a name"))
    assert long.endswith(" 0.87") and "…" in long
    places = [place for text, *place in texts if text != long]
    overlaps = [
        a for a, b in itertools.combinations(places, 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]  # fmt: skip
    assert len(overlaps) <= 2 or min(size) < 100  # where there was no room


def test_surer_detections_lie_over_less_sure_ones():
    """In whatever order they come; boxes, masks and captions."""
    image = Image.new("RGB", (400, 400), GREY)
    masks = torch.zeros(2, 400, 400, dtype=torch.bool)
    masks[:, 150:250, 150:250] = True
    boxes = [(100, 100, 300, 300)] * 2
    drawn = [
        drawn_on(image, found((1, scores[0], boxes[0]), (2, scores[1], boxes[1]), masks=masks))
        for scores in ((0.9, 0.6), (0.6, 0.9))
    ]
    for picture, label in zip(drawn, (1, 2), strict=True):
        assert picture.getpixel((102, 200)) == colour_of(label)
        tint = (np.array(colour_of(label)) + GREY) / 2
        np.testing.assert_allclose(picture.getpixel((200, 200)), tint, atol=1)
        assert picture.getpixel((150, 200)) == colour_of(label)  # the mask's edge
    tail = {"tail": "", "box": (0, 0, 9, 9)}
    canvas = Canvas(Image.new("RGB", (320, 20), GREY), 320)  # room for one caption alone
    canvas.draw_captions([Caption("W" * 40, colour=COLOURS[i], **tail) for i in (1, 2)])
    assert canvas.picture.getpixel((1, 1)) == COLOURS[2]


def test_small_images_are_enlarged_by_a_whole_number():
    for size, wanted in (
        ((96, 96), (384, 384)), ((300, 500), (600, 1000)), ((640, 480), (640, 480)),
        ((1000, 100), (1000, 100)), ((1, 20000), (1, 20000)), ((4000, 3000), (4000, 3000)),
    ):  # fmt: skip
        assert drawn_on(Image.new("RGB", size), found((1, 0.9, (0, 0, 1, 1)))).size == wanted
    empty = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "names": []}
    assert drawn_on(Image.new("RGB", (50, 60)), {**empty, "labels": torch.zeros(0)}).size == (
        350,
        420,
    )
    drawn = pixels(drawn_on(Image.new("RGB", (96, 96), GREY), found((4, 0.9, (24, 48, 72, 90)))))
    rows, columns = (drawn == colour_of(4)).all(-1)[190:].nonzero()  # without the caption
    assert (columns.min(), columns.max()) == (97, 287) and rows.max() + 190 == 359


def test_lines_and_letters_grow_with_the_image():
    small, large = (Canvas(Image.new("RGB", size)) for size in ((640, 480), (4000, 3000)))
    assert small.line == 3 and 13 <= small.font.size <= 16
    assert large.line > 4 * small.line and large.font.size > 4 * small.font.size


@pytest.mark.parametrize("ground", [*COLOURS[:12], (0, 0, 0), (255, 255, 255), GREY])
@pytest.mark.parametrize("score", [0.9, 0.3])
def test_boxes_are_seen_on_any_ground(ground, score):
    for label in range(len(COLOURS)):
        image = Image.new("RGB", (320, 320), ground)
        drawn = pixels(drawn_on(image, found((label, score, (50, 100, 300, 300))), threshold=0.5))
        column = drawn[200:204, 50:56].reshape(-1, 3)  # across the left edge
        assert max(np.linalg.norm(cielab(pixel) - cielab(ground)) for pixel in column) > 40


def contrast(one, other):
    """WCAG's contrast of two colours."""

    def luminance(colour):
        channels = np.array(colour) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ [0.2126, 0.7152, 0.0722]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def cielab(colour):
    """sRGB to CIELAB, white of D65."""
    channels = np.array(colour) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    share = matrix @ linear / [0.9505, 1, 1.089]
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_colours_differ_and_can_be_written_on():
    for number, least in ((6, 75), (12, 40), (len(COLOURS), 25)):
        pairs = itertools.combinations(map(cielab, COLOURS[:number]), 2)
        assert min(np.linalg.norm(one - other) for one, other in pairs) > least
    for colour in COLOURS:
        assert np.hypot(*cielab(colour)[1:]) > 40  # none is near grey
        assert contrast(colour, ink_on(colour)) >= 4.5


def test_boxes_of_any_kind_can_be_drawn():
    image = Image.new("RGB", (320, 320))
    for box in ((5, 5, 5, 5), (10, 10, 8, 8), (-9, -9, -5, -5), (400, 400, 500, 500),
                (0, 0, 320, 320), (3, 3, 6, 300), (0, 0, 1e9, 1e9)):  # fmt: skip
        for threshold in (0, 1):
            drawn_on(image, found((1, 0.5, box)), threshold)
    assert drawn_on(Image.new("L", (1, 1)), found((1, 0.5, (0, 0, 1, 1)))).mode == "RGB"


def test_detections_below_the_threshold_are_marked(texts):
    rows = (1, 0.4996, (50, 50, 250, 250)), (2, 0.9, (60, 60, 200, 200))
    drawn = drawn_on(Image.new("RGB", (320, 320), GREY), found(*rows), threshold=0.5)
    assert [text for text, *_ in texts] == ["name 1 0.49 < 0.5", "name 2 0.90"]
    edges = {
        label: pixels(drawn)[100:190, x] == colour_of(label) for label, x in ((1, 52), (2, 62))
    }
    shares = {label: edge.all(-1).mean() for label, edge in edges.items()}
    assert shares[2] == 1 and 0.3 < shares[1] < 0.7


def test_a_grid_of_pictures(tmp_path):
    sides = [(CELL, CELL // 2), (CELL // 2, CELL), (CELL, CELL // 2)]
    pictures = [Image.new("RGB", size, GREY) for size in sides]
    write_grid(pictures, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (3 * (CELL + GAP) + GAP, CELL + 2 * GAP)
        middles = [(GAP + i * (CELL + GAP) + CELL // 2, GAP + CELL // 2) for i in range(3)]
        assert [grid.getpixel(middle) for middle in middles] == 3 * [GREY]
        assert grid.getpixel((middles[0][0], GAP + 5)) == (255, 255, 255)  # above a wide one
        assert grid.getpixel((middles[1][0], GAP + 5)) == GREY
    for number, columns, rows in ((1, 1, 1), (2, 2, 1), (8, 4, 2), (18, 6, 3), (19, 6, 4)):
        write_grid(pictures[:1] * number, tmp_path / "grid.png")
        with Image.open(tmp_path / "grid.png") as grid:
            height = rows * (CELL // 2 + GAP) + GAP
            assert grid.size == (columns * (CELL + GAP) + GAP, height)


def test_segments_are_tinted_and_named(texts):
    ids = torch.zeros(100, 200, dtype=torch.int64)
    ids[:, 100:] = 7
    segments = [
        {"id": 0, "category_id": 3},
        {"id": 7, "category_id": 5},
        {"id": 9, "category_id": 1},
    ]
    maps = {"ids": ids, "segments_info": segments}
    drawn = segments_on(Image.new("RGB", (200, 100), GREY), maps, {3: "sky", 5: "grass"}, 400)
    assert drawn.size == (400, 200)
    assert [text for text, *_ in texts] == ["sky", "grass"]
    for x, label in ((50, 3), (350, 5)):
        tint = (np.array(colour_of(label)) + GREY) / 2
        np.testing.assert_allclose(drawn.getpixel((x, 180)), tint, atol=2)


def test_names_are_no_mathematics():
    """Matplotlib reads what is between two $ as TeX."""
    figure, axis = plt.subplots()
    draw_caption(axis, 0, 0, "a$_$b", (1.0, 0.0, 0.0))
    figure.canvas.draw()
    plt.close(figure)
