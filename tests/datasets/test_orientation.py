"""EXIF orientation: photos of phones stand upright, annotated images are as annotated."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from datasets.coco import CocoDetection
from datasets.image_inputs import read_image
from datasets.images import ImageReader
from datasets.orientation import as_annotated, orientation, upright
from datasets.transforms import make_coco_transforms
from tests.helpers.tool_runs import run_tool
from tools import check_data
from tools.label_formats.content import image_size

# The reader turns Pillow's warnings off, pytest turns them on again.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def scene():
    """30 high and 40 wide, no side and corner like another."""
    values = np.random.default_rng(0).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(values.repeat(10, 0).repeat(10, 1))


def saved(path, image, flag, **options):
    """The file of a phone that was held so: stored as the sensor saw it."""
    exif = Image.Exif()
    exif[ORIENTATION] = flag
    image.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
@pytest.mark.parametrize("flag", range(1, 9))
def test_a_photo_is_turned_as_pillow_turns_it(scene, tmp_path, flag, mode):
    path = saved(tmp_path / "a.png", scene.convert(mode), flag)
    with Image.open(path) as opened:
        wanted = ImageOps.exif_transpose(opened).convert("RGB")
    read = ImageReader(tmp_path).read("a.png")
    assert orientation(read) == flag and read.size == (40, 30)
    turned = upright(read)
    assert turned.size == ((40, 30) if flag < 5 else (30, 40))
    np.testing.assert_array_equal(turned, wanted)
    np.testing.assert_array_equal(upright(turned), wanted)  # once is enough


def test_a_worked_example():
    """6: the first row of what is stored is the right side."""
    stored = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8))
    stored.getexif()[ORIENTATION] = 6
    assert np.asarray(upright(stored)).tolist() == [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"x" * 50])
def test_damaged_exif_is_no_orientation(scene, exif):
    image = scene.copy()
    image.info["exif"] = exif
    assert orientation(image) == 1 and upright(image) is image


@pytest.mark.parametrize("flag", [0, 9, "6", (6, 6)])
def test_strange_orientations_are_none(scene, flag):
    image = scene.copy()
    image.getexif()[ORIENTATION] = flag
    assert upright(image) is image


@pytest.mark.parametrize(
    ("flag", "told", "size"),
    [
        (6, (30, 40), (40, 30)),  # COCO's way: annotated as stored
        (6, (40, 30), (30, 40)),  # annotated as seen
        (6, (0, 0), (40, 30)),  # not told: as published
        (6, (40, 0), (30, 40)),
        (6, (50, 60), (40, 30)),  # neither
        (3, (30, 40), (40, 30)),
        (1, (40, 30), (40, 30)),
    ],
)
def test_the_annotated_size_decides(scene, flag, told, size):
    image = scene.copy()
    image.getexif()[ORIENTATION] = flag
    used = as_annotated(image, *told)
    assert used.size == size and (used is image) == (size == (40, 30))


FLAGS = {  # name: orientation, annotated height and width
    "plain.png": (1, 30, 40),
    "stored.png": (6, 30, 40),
    "turned.png": (6, 40, 30),
    "mirrored.png": (2, 30, 40),
    "untold.png": (8, None, None),
}


@pytest.fixture
def split(scene, tmp_path):
    """One image of each of FLAGS, and a square one."""
    folder = tmp_path / "train2017"
    folder.mkdir()
    for name, (flag, _, _) in FLAGS.items():
        saved(folder / name, scene, flag)
    saved(folder / "square.png", scene.crop((0, 0, 30, 30)), 6)
    images = [
        {"id": i, "file_name": name, "height": height, "width": width}
        for i, (name, (_, height, width)) in enumerate(
            {**FLAGS, "square.png": (6, 30, 30)}.items(), start=1
        )
    ]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [5, 0, 10, 10]} for i in (2, 3)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    path = tmp_path / "annotations" / "instances_train2017.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    return folder, path


def test_training_follows_the_annotated_size(split):
    dataset = CocoDetection(*split, make_coco_transforms("none", 30))
    samples = [dataset[i] for i in range(6)]
    assert [tuple(image.shape[1:]) for image, _ in samples] == [
        (30, 40), (30, 40), (40, 30), (30, 40), (30, 40), (30, 30),
    ]  # fmt: skip
    plain, stored, turned = (image for image, _ in samples[:3])
    assert (plain == stored).all()
    assert (turned == plain.flip(1).transpose(1, 2)).all()  # a quarter to the right
    np.testing.assert_allclose(samples[1][1]["boxes"], [[10 / 40, 5 / 30, 10 / 40, 10 / 30]])
    np.testing.assert_allclose(samples[2][1]["boxes"], [[10 / 30, 5 / 40, 10 / 30, 10 / 40]])


def test_check_data_names_them(split, tmp_path):
    run = run_tool(check_data, tmp_path, "--split", "train", "--jobs", "1")
    *_, one, other, count = run.out.splitlines()
    assert run.code == 0
    assert count == "errors: 0, notes: 5"
    assert one == (
        f"note: {split[1]}: images with an EXIF orientation that are read as stored: their "
        "size is so: 4, image 2 (stored.png), 4 (mirrored.png), 5 (untold.png), 6 (square.png)"
    )
    assert other == (
        f"note: {split[1]}: images that are turned by their EXIF orientation, to have the "
        "annotated size: 1, image 3 (turned.png)"
    )


def test_a_turned_tiff_is_converted_with_the_size_that_is_read(tmp_path):
    """Pillow turns it while it reads."""
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.tif", exif=exif)
    assert image_size(tmp_path / "a.tif") == read_image(tmp_path / "a.tif").size[::-1]
