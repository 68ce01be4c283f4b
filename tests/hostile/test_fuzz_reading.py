"""Random and damaged files: a UserError of one line is all that may come of them.

Hypothesis makes the damage: random bytes, cuts, flipped bits and spliced parts of real files. All
runs repeat exactly; FUZZ_SEED=N lets the slow ones try others.
"""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.annotations.instances import load_annotations
from datasets.coco import CocoDetection
from datasets.coco_panoptic import CocoPanoptic
from datasets.images import ImageReader
from datasets.transforms import make_coco_transforms
from tests.hostile.annotations import HEIGHT, RUNS, WIDTH, compressed, runs
from util.errors import UserError

# The reader turns Pillow's warnings off, pytest turns them on again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
COMMON = {
    "deadline": 20_000,  # ms: nothing hangs
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
FAST_EXAMPLES, SLOW_EXAMPLES = 40, 1000  # of each target


def picture(kind: str, mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    image = Image.radial_gradient("L").resize((WIDTH, HEIGHT)).convert(mode)
    image.save(content, kind)
    return content.getvalue()


PICTURES = [
    *(picture(kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP", "JPEG2000")),
    *(picture("PNG", mode) for mode in ("P", "LA", "1")),
]


def archive(content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    """A split's archive with one member."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr("images/a.png", content)
    return file.getvalue()


ARCHIVES = [
    archive(PICTURES[0], method)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
]


def annotations(**changes) -> dict:
    entry = {"category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
    outlines = [[[1, 1, 9, 1, 9, 9]], runs([0, 60, HEIGHT * WIDTH - 60]), runs(compressed(RUNS))]
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {"id": i, "image_id": 1, **entry, "segmentation": outline, **changes}
            for i, outline in enumerate(outlines)
        ],
        "categories": [{"id": 1, "name": "one"}],
    }


ANNOTATIONS = [json.dumps(annotations()).encode(), json.dumps(annotations(area=None)).encode()]


def segments(**changes) -> dict:
    """A panoptic file for the map PANOPTIC_MAP."""
    return {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "map.png",
                "segments_info": [
                    {"id": 256, "category_id": 1, "iscrowd": 0, "area": 8, "bbox": [1, 2, 3, 4]},
                    {"id": 512, "category_id": 2, "iscrowd": 1, **changes},
                ],
            }
        ],
        "categories": [{"id": i, "name": "one", "isthing": i - 1} for i in (1, 2)],
    }


def map_of_segments(mode: str) -> bytes:
    """Two halves and a line of void."""
    content, image = io.BytesIO(), Image.new("RGB", (WIDTH, HEIGHT))
    image.paste((0, 1, 0), (0, 0, WIDTH, HEIGHT // 2))
    image.paste((0, 2, 0), (0, HEIGHT // 2 + 1, WIDTH, HEIGHT))
    (image.quantize(4) if mode == "P" else image.convert(mode)).save(content, "PNG")
    return content.getvalue()


PANOPTIC = [json.dumps(segments()).encode(), json.dumps(segments(iscrowd=None)).encode()]
MAPS = [map_of_segments(mode) for mode in ("RGB", "RGBA", "P")]


@st.composite
def damaged(draw, originals: list[bytes]) -> bytes:
    """A real file with up to four cuts, flipped bits, random or foreign parts."""
    content = draw(st.sampled_from(originals))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 40)))
        how = draw(st.sampled_from(["cut", "flip", "random", "splice", "remove"]))
        if how == "cut":
            content = content[:start]
        elif how == "flip" and start < len(content):
            flipped = content[start] ^ (1 << draw(st.integers(0, 7)))
            content = content[:start] + bytes([flipped]) + content[start + 1 :]
        elif how == "random":
            content = content[:start] + draw(st.binary(max_size=40)) + content[end:]
        elif how == "splice":
            other = draw(st.sampled_from(originals))
            place = draw(st.integers(0, len(other)))
            content = content[:start] + other[place:]
        elif how == "remove":
            content = content[:start] + content[end:]
    return content


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from([10**30, 10**400, -1, 2**63, -1e308, compressed(RUNS), WIDTH, "a.png"]),
    lambda inner: st.lists(inner, max_size=6)
    | st.dictionaries(st.sampled_from(["counts", "size", "id"]), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@st.composite
def strange_annotations(draw, original: Callable[[], dict] = annotations) -> bytes:
    """The layout of COCO with values of any kind in one to three places."""
    content = original()
    inner = [s for a in content["annotations"] for s in a.get("segments_info", ())]
    for _ in range(draw(st.integers(1, 3))):
        entry = draw(st.sampled_from([*chain(*content.values()), *inner]))
        key = draw(st.sampled_from(list(entry)))
        entry[key] = draw(json_values)
    return json.dumps(content).encode()


@contextlib.contextmanager
def only_one_line_errors() -> Iterator[None]:
    """Fail the test on anything but a UserError of one line."""
    try:
        yield
    except UserError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 2000


def read_folder(root: Path, content: bytes) -> None:
    (root / "images" / "a.png").write_bytes(content)
    with only_one_line_errors():
        assert ImageReader(root / "images").read("a.png").mode == "RGB"


def read_archive(root: Path, content: bytes) -> None:
    (root / "images.zip").write_bytes(content)
    (root / "images" / "a.png").unlink(missing_ok=True)
    with only_one_line_errors():
        assert ImageReader(root / "images").read("a.png").mode == "RGB"


def read_annotations(root: Path, content: bytes) -> None:
    """The file alone, and as a data set that uses all of it, stopping and skipping."""
    path = root / "annotations.json"
    path.write_bytes(content)
    (root / "images" / "a.png").write_bytes(PICTURES[0])
    with only_one_line_errors():
        load_annotations(path, num_classes=5, segmentations=True)
    for skip in (False, True):
        with only_one_line_errors():
            transforms = make_coco_transforms("flip", 32)
            dataset = CocoDetection(
                root / "images", path, transforms, return_masks=True, skip_bad_images=skip
            )
            for _, target in dataset:
                boxes = target["boxes"]
                assert boxes.isfinite().all() and (boxes >= 0).all() and (boxes <= 1).all()
                assert target["masks"].shape[0] == len(boxes)


def read_panoptic(root: Path, content: bytes, png: bytes = MAPS[0]) -> None:
    """Samples and truth, stopping and skipping."""
    path = root / "panoptic.json"
    path.write_bytes(content)
    (root / "images" / "a.png").write_bytes(PICTURES[0])
    (root / "images" / "map.png").write_bytes(png)
    for skip in (False, True):
        with only_one_line_errors():
            dataset = CocoPanoptic(
                root / "images", root / "images", path, make_coco_transforms("flip", 32),
                return_masks=True, num_classes=5, skip_bad_images=skip,
            )  # fmt: skip
            for _, target in dataset:
                assert target["masks"].flatten(1).any(1).all()
                assert target["masks"].shape[0] == len(target["boxes"])
                dataset.truth(target["image_id"].item())


def read_map(root: Path, content: bytes) -> None:
    read_panoptic(root, PANOPTIC[0], content)


TARGETS: dict[str, tuple[st.SearchStrategy, Callable[[Path, bytes], None]]] = {
    "images": (damaged(PICTURES) | st.binary(max_size=200), read_folder),
    "archives": (damaged(ARCHIVES) | st.binary(max_size=200), read_archive),
    "archived images": (damaged(PICTURES).map(archive), read_archive),
    "annotation bytes": (damaged(ANNOTATIONS) | st.binary(max_size=200), read_annotations),
    "annotation values": (strange_annotations(), read_annotations),
    "panoptic bytes": (damaged(PANOPTIC), read_panoptic),
    "panoptic values": (strange_annotations(segments), read_panoptic),
    "maps": (damaged(MAPS) | damaged(PICTURES), read_map),
}


def fuzz(target: str, root: Path, decorate: Callable, **options) -> None:
    strategy, read = TARGETS[target]
    (root / "images").mkdir(exist_ok=True)

    @decorate
    @settings(**COMMON, **options)
    @given(strategy)
    def body(content: bytes) -> None:
        read(root, content)

    body()


@pytest.mark.parametrize("target", TARGETS)
def test_damage_is_answered_with_one_line(target, tmp_path):
    fuzz(target, tmp_path, lambda body: body, max_examples=FAST_EXAMPLES, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_much_damage_is_answered_with_one_line(target, tmp_path):
    number = int(os.environ.get("FUZZ_SEED", "0"))
    fuzz(target, tmp_path, seed(number), max_examples=SLOW_EXAMPLES)


def test_originals_are_good(tmp_path):
    """The files that are damaged must be valid, or damage would change nothing."""
    (tmp_path / "images").mkdir()
    for content in PICTURES:
        (tmp_path / "images" / "a.png").write_bytes(content)
        assert ImageReader(tmp_path / "images").read("a.png").size == (WIDTH, HEIGHT)
    (tmp_path / "images" / "a.png").unlink()
    for content in ARCHIVES:
        (tmp_path / "images.zip").write_bytes(content)
        assert ImageReader(tmp_path / "images").read("a.png").size == (WIDTH, HEIGHT)
    for content in ANNOTATIONS:
        (tmp_path / "annotations.json").write_bytes(content)
        transforms = make_coco_transforms("none", 32)
        (tmp_path / "images" / "a.png").write_bytes(PICTURES[0])
        dataset = CocoDetection(
            tmp_path / "images", tmp_path / "annotations.json", transforms, True
        )
        assert dataset[0][1]["masks"].shape[0] == 3
    for content in PANOPTIC:
        (tmp_path / "panoptic.json").write_bytes(content)
        for png in MAPS:
            (tmp_path / "images" / "map.png").write_bytes(png)
            dataset = CocoPanoptic(
                tmp_path / "images", tmp_path / "images", tmp_path / "panoptic.json", transforms
            )
            assert len(dataset.truth(1)[1]) == 2 and len(dataset[0][1]["boxes"]) >= 1
