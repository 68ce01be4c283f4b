"""--augment: its parts, transforms of a user's own file, and whose code is run."""

import argparse
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from checkpoints.finetune_options import training_options
from datasets import build_dataset
from datasets.augmentation import (
    AugmentationError,
    load_own_transforms,
    own_parts,
    parse_augmentation,
)
from datasets.coco import CocoDetection
from datasets.loaders import build_loaders
from datasets.transforms import make_coco_transforms
from tests.helpers.commands import answer_of_main
from tests.helpers.data import assert_same_samples, make_split
from util.errors import UserError

SIZE = (40, 30)
TARGETS = [{"category_id": 1, "bbox": [5, 6, 10, 8], "area": 9},
           {"category_id": 2, "bbox": [30, 20, 8, 9], "area": 9}]  # fmt: skip
HEAD = "import random\nimport numpy as np\nimport torch\nfrom torchvision.transforms import v2\n"


@pytest.fixture
def own(tmp_path):
    """own(code): write a file whose `f` is that, and let it be used; returns FILE.py:f."""
    count = iter(range(100))

    def make(code: str, use: bool = True) -> str:
        path = tmp_path / f"own{next(count)}.py"
        path.write_text(HEAD + code)
        if use:
            load_own_transforms(f"{path}:f")
        return f"{path}:f"

    return make


def sample_of(tmp_path, augment: str, masks: bool = False, **options):
    """The first sample of an image whose left half is red, as wide as it was."""
    outlines = [{**t, "segmentation": [corners(*t["bbox"])]} for t in TARGETS]
    images, path = make_split(tmp_path, outlines, SIZE)
    transforms = make_coco_transforms(augment, min(SIZE))
    return CocoDetection(images, path, transforms, masks, **options)[0]


def corners(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def pixels(target) -> list[list[float]]:
    """Boxes as x, y, w, h in pixels of the sample."""
    cx, cy, w, h = target["boxes"].unbind(1)
    height, width = target["size"]
    return torch.stack([(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height], 1)


# ---- what it names ----


def test_parts():
    for text, wanted in (
        ("detr", ("detr", [])),
        ("flip", ("flip", [])),
        ("photometric", (None, ["photometric"])),
        ("a/b.py:f+flip+photometric", ("flip", ["a/b.py:f", "photometric"])),
        ("x.py:f+x.py:g", (None, ["x.py:f", "x.py:g"])),
    ):
        assert parse_augmentation(text) == wanted
    assert own_parts("photometric+x.py:f+detr") == ["x.py:f"]
    for text in ("", "none", "detr+", "detr+flip", "x.py", "x.py:", "x.py:2", "x.txt:f", "x.py:f()",
                 "photometric+photometric"):  # fmt: skip
        with pytest.raises(ValueError):
            parse_augmentation(text)
    assert "'blur' is none of detr, flip, photometric" in answer_of_main("--augment", "detr+blur")


def test_photometric_changes_colours_alone(tmp_path):
    plain, target = sample_of(tmp_path, "none")
    colours = set()
    for seed in range(8):
        image, other = sample_of(tmp_path, "photometric", seed=seed)
        assert all(torch.equal(other[key], target[key]) for key in target)
        assert image.shape == plain.shape
        assert (image == image[:, :1, :1]).all()  # it was of one colour, and is
        colours.add(tuple(image[:, 0, 0].tolist()))
    assert len(colours) > 4


def test_colours_go_with_flips(tmp_path):
    found = {tuple(pixels(sample_of(tmp_path, "flip+photometric", seed=s)[1])[0].round().tolist())
             for s in range(8)}  # fmt: skip
    assert found == {(5, 6, 10, 8), (25, 6, 10, 8)}


# ---- own transforms ----


@pytest.mark.parametrize(
    "code",
    [
        "f = v2.RandomHorizontalFlip(1.0)",
        "def f():\n    return v2.Compose([v2.RandomHorizontalFlip(1.0)])",
        "class f(v2.RandomHorizontalFlip):\n    def __init__(self, p=1.0):\n"
        "        super().__init__(p)",
        "def f(image, target):\n    return v2.RandomHorizontalFlip(1.0)(image, target)",
        "def f(image, target):\n    boxes = target['boxes']\n    boxes[:, [2, 0]] = 40 - "
        "boxes[:, [0, 2]]\n    masks = target['masks'].flip(2)\n"
        "    return image.flip(2), {**target, 'boxes': boxes, 'masks': masks}",
    ],
)
def test_boxes_and_masks_move_with_the_image(own, tmp_path, code):
    image, target = sample_of(tmp_path, own(code), masks=True)
    assert image.shape == (3, 30, 40)
    assert pixels(target).round(decimals=4).tolist() == [[25, 6, 10, 8], [2, 20, 8, 9]]
    assert target["labels"].tolist() == [1, 2] and target["area"].tolist() == [80, 72]
    for mask, (x, y, w, h) in zip(target["masks"], [(25, 6, 10, 8), (2, 20, 8, 9)], strict=True):
        wanted = torch.zeros(30, 40, dtype=torch.bool)
        wanted[y : y + h, x : x + w] = True
        assert torch.equal(mask, wanted)


@pytest.mark.parametrize("more", ["", "+flip", "+detr", "+photometric"])
def test_what_leaves_the_image_is_clipped_or_dropped(own, tmp_path, more):
    """20 x 14 pixels around the first box, and nothing of the second."""
    part = own("def f(image, target):\n    size = (14, 20)\n    crop = v2.functional.crop\n"
               "    boxes = v2.functional.crop(target['boxes'], 8, 0, *size)\n"
               "    boxes = type(target['boxes']).as_subclass(boxes, torch.Tensor)\n"
               "    boxes[1] = torch.tensor([30., 12, 38, 50])\n"
               "    return crop(image, 8, 0, *size), {'boxes': boxes, 'labels': target['labels'], "
               "'masks': crop(target['masks'], 8, 0, *size)}\n")  # fmt: skip
    for seed in range(4):
        image, target = sample_of(tmp_path, part + more, masks=True, seed=seed)
        assert target["labels"].tolist() == [1] and len(target["masks"]) == 1
        assert len(target["area"]) == len(target["iscrowd"]) == 1
        assert target["orig_size"].tolist() == [30, 40]
        assert (target["boxes"] >= 0).all() and (target["boxes"] <= 1).all()
        if not more:
            assert image.shape == (3, 30, 42)
            wanted = torch.tensor([[5, 0, 10, 6]]) * torch.tensor([42 / 20, 30 / 14] * 2)
            assert torch.allclose(pixels(target), wanted)


def test_torchvisions_crops_of_detection(own, tmp_path):
    part = own("def f():\n    return v2.Compose([v2.RandomZoomOut(), v2.RandomIoUCrop(), "
               "v2.SanitizeBoundingBoxes()])\n")  # fmt: skip
    for seed in range(10):
        _, target = sample_of(tmp_path, f"detr+{part}", masks=True, seed=seed)
        lengths = {len(target[n]) for n in ("boxes", "labels", "masks", "area", "iscrowd")}
        assert len(lengths) == 1


RANDOM = ("def f(image, target):\n    shift = torch.tensor([random.randint(0, 99), "
          "np.random.randint(99), int(torch.randint(99, ()))])\n"
          "    return image // 2 + shift[:, None, None].byte(), target\n")  # fmt: skip


def generators() -> tuple:
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002


def test_random_numbers_are_the_samples_own(own, shapes, args):
    """Python's, NumPy's and PyTorch's, in any process; those of the run are not disturbed."""
    options = args("--coco_path", shapes, "--image_size", "48", "--augment", f"{own(RANDOM)}+flip")
    dataset, again = build_dataset("train", options), build_dataset("train", options)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    wanted = generators()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(5)
    first = list(dataset)
    assert generators() == wanted
    assert_same_samples(first[::-1], [again[i] for i in reversed(range(len(again)))])
    assert_same_samples(first, DataLoader(again, batch_size=None, num_workers=2))
    again.set_epoch(1)
    images = [image for samples in (first, again) for image, _ in samples]
    assert len({tuple(image.mean((1, 2)).tolist()) for image in images}) == 2 * len(first)


@pytest.mark.slow
def test_spawned_workers_read_the_file_again(own, shapes, args):
    options = args("--coco_path", shapes, "--image_size", "48", "--augment", own(RANDOM))
    dataset = build_dataset("train", options)
    loader = DataLoader(dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert_same_samples(list(dataset), loader)


def test_what_is_changed_in_place_is_no_cached_image(own, tmp_path):
    code = ("def f(image, target):\n    image.zero_()\n    for value in target.values():\n"
            "        value.zero_()\n    return image, target\n")  # fmt: skip
    images, path = make_split(tmp_path, [dict(t) for t in TARGETS], SIZE)
    dataset = CocoDetection(images, path, make_coco_transforms(own(code), 30), cache_images=True)
    assert len(dataset[0][1]["boxes"]) == 0
    dataset.transforms = make_coco_transforms("none", 30)
    image, target = dataset[0]
    assert target["labels"].tolist() == [1, 2] and len(image.unique()) == 3


# ---- errors ----

FILES = {
    "no syntax": ("def f(:\n", r"own0\.py: SyntaxError: "),
    "a file that fails": ("\nraise OSError('no disk')\n", r"own0\.py: OSError in line 6: no disk"),
    "a file that exits": ("exit(3)\n", r"own0\.py: SystemExit in line 5"),
    "another name": ("g = 1\n", "has no function f"),
    "a number": ("f = 1\n", "has no function f"),
    "a function that fails": ("def f():\n    1 / 0\n", "failed with ZeroDivisionError in line 6: "),
    "nothing returned": ("def f():\n    v2.Identity()\n", "returned a NoneType, not a transform; "),
}
CALLS = {
    "a transform that fails": ("    None.x", "failed with AttributeError in line 6: "),
    "nothing": ("    pass", "something else than an image and a target"),
    "an image alone": ("    return image", "something else than an image and a target"),
    "grey": ("    return image[:1], target", r"an image that is no tensor \(3, H, W\)"),
    "normalised": ("    return image.float() / 64 - 2, target", "floats from -1.8.* do not normal"),
    "integers": ("    return image.int(), target", r"an image of torch\.int32"),
    "no labels": ("    return image, {'boxes': target['boxes']}", "returned labels that are no"),
    "a label too few": ("    target['labels'] = target['labels'][:1]\n    return image, target",
                        r"boxes of shape \(2, 4\), not \(1, 4\)"),
    "boxes that stay": ("    return image[:, :20], target", "boxes of another canvas_size"),
    "floats for labels": (
        "    target['labels'] = target['labels'] / 1\n    return image, target",
        r"labels of torch\.float32, not whole numbers"),
    "NaN": ("    target['boxes'][0, 0] = torch.nan\n    return image, target", "are not finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_without_a_transform(name, own):
    code, says = FILES[name]
    part = own(code, use=False)
    with pytest.raises(UserError, match=says) as error:
        load_own_transforms(part)
    assert str(error.value).startswith(f"--augment {part}: ")


@pytest.mark.parametrize("name", CALLS)
def test_a_transform_that_returns_something_else(name, own, tmp_path):
    """It is no fault of the image, which --skip_bad_images would leave out."""
    code, says = CALLS[name]
    part = own(f"def f(image, target):\n{code}\n")
    for skip in (False, True):
        with pytest.raises(AugmentationError, match=says) as error:
            sample_of(tmp_path, part, skip_bad_images=skip)
        assert str(error.value).startswith(f"--augment {part}: ")


def test_errors_come_before_the_model_is_built(own, shapes, args):
    part = own("def f(image, target):\n    return image\n")
    with pytest.raises(AugmentationError):
        build_loaders(args("--coco_path", shapes, "--augment", part, "--num_workers", "0"))
    for change in ("+ 6", "- 9"):
        code = f"target['labels'] = target['labels'] {change}\n    return image, target"
        part = own(f"def f(image, target):\n    {code}\n")
        with pytest.raises(
            AugmentationError, match=r"returned label -?\d+; the model has 6 classes"
        ):
            build_loaders(args("--coco_path", shapes, "--augment", part, "--num_workers", "0"))
    line = answer_of_main("--coco_path", shapes, "--augment", "nothing.py:f", "--resume", "LICENSE")
    assert line == "error: --augment nothing.py:f: nothing.py: no such file"


# ---- whose code is run ----


def test_code_is_run_only_where_the_command_line_names_it(own, tmp_path, shapes, args):
    """Not because a checkpoint's options name it."""
    mark = tmp_path / "mark"
    part = own(f"open({str(mark)!r}, 'w')\nf = v2.Identity()\n", use=False)
    saved = args("--coco_path", shapes, "--augment", f"flip+{part}")
    with pytest.raises(UserError, match="run only where a command line names it"):
        build_dataset("train", saved)
    build_dataset("val", saved)
    given = argparse.Namespace(**{**vars(saved), "given": [], "finetune": "x.pth"})
    for resumed in (False, True):
        with pytest.raises(UserError, match=r"--finetune x\.pth: trained with --augment flip\+"):
            training_options(given, saved, resumed)
    given.given = ["augment"]
    assert "augment" not in training_options(given, saved, False)
    assert not mark.exists()
    load_own_transforms(part)
    build_dataset("train", saved)
    assert mark.exists()
