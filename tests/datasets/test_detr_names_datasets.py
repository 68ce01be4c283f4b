"""What DETR's scripts import from datasets, by numbers worked out by hand."""

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.cocoeval import COCOeval
from torch.utils.data import Subset

from datasets import get_coco_api_from_dataset
from datasets import transforms as T
from datasets.coco import CocoDetection, ConvertCocoPolysToMask, make_coco_transforms
from datasets.coco_eval import (
    CocoEvaluator,
    convert_to_xywh,
    create_common_coco_eval,
    evaluate,
    merge,
)
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from tests.helpers.data import make_split
from tests.helpers.two_processes import in_two_processes

SQUARE = [[10, 5, 20, 5, 20, 15, 10, 15]]


def target() -> dict:
    """Two objects on an image of 40 x 30."""
    masks = torch.zeros(2, 30, 40, dtype=torch.bool)
    masks[0, 5:15, 10:20] = True
    masks[1, 20:, 30:] = True
    return {
        "boxes": torch.tensor([[10.0, 5, 20, 15], [30, 20, 40, 30]]),
        "labels": torch.tensor([1, 2]),
        "area": torch.tensor([100.0, 100]),
        "iscrowd": torch.zeros(2, dtype=torch.int64),
        "masks": masks,
    }


def picture() -> Image.Image:
    """White where the first object is."""
    image = Image.new("RGB", (40, 30))
    image.paste((255, 255, 255), (10, 5, 20, 15))
    return image


def test_crop_drops_what_is_outside():
    image, cut = T.crop(picture(), target(), (8, 15, 20, 10))  # top, left, height, width
    assert image.size == (10, 20)
    assert cut["boxes"].tolist() == [[0, 0, 5, 7]] and cut["area"].tolist() == [35]
    assert cut["labels"].tolist() == [1] and cut["size"].tolist() == [20, 10]
    assert cut["masks"].dtype == torch.bool and cut["masks"].shape == (1, 20, 10)
    assert cut["masks"].sum() == 35 == (np.asarray(image)[..., 0] > 0).sum()
    assert target()["boxes"].tolist()[0] == [10, 5, 20, 15]
    without_boxes = {"masks": target()["masks"], "labels": torch.tensor([1, 2])}
    assert T.crop(picture(), without_boxes, (8, 15, 20, 10))[1]["labels"].tolist() == [1]


def test_hflip():
    image, flipped = T.hflip(picture(), target())
    assert flipped["boxes"].tolist() == [[20, 5, 30, 15], [0, 20, 10, 30]]
    assert torch.equal(flipped["masks"], target()["masks"].flip(-1))
    assert np.asarray(image)[5:15, 20:30].min() == 255


@pytest.mark.parametrize(
    ("size", "max_size", "wanted"),
    [(60, None, (60, 80)), (60, 40, (30, 40)), ((20, 60), None, (60, 20))],
)
def test_resize(size, max_size, wanted):
    """The shorter side's size, bound by the longer one's, or (width, height)."""
    image, resized = T.resize(picture(), target(), size, max_size)
    down, across = wanted[0] / 30, wanted[1] / 40
    assert image.size == wanted[::-1] and resized["size"].tolist() == list(wanted)
    first = [10 * across, 5 * down, 20 * across, 15 * down]
    assert resized["boxes"][0].tolist() == pytest.approx(first)
    assert resized["area"].tolist() == pytest.approx([100 * down * across] * 2)
    assert resized["masks"].dtype == torch.bool and resized["masks"].shape == (2, *wanted)
    assert resized["masks"][0].sum() == 100 * down * across


def test_pad_adds_right_and_below():
    image, padded = T.pad(picture(), target(), (3, 7))
    assert image.size == (43, 37) and padded["size"].tolist() == [37, 43]
    assert torch.equal(padded["boxes"], target()["boxes"])
    assert padded["masks"].shape == (2, 37, 43) and padded["masks"].sum() == 200


def test_classes_without_a_choice():
    image, cut = T.CenterCrop((10, 20))(picture(), target())
    assert image.size == (20, 10) and cut["boxes"].tolist() == [[0, 0, 10, 5]]
    same = T.RandomCrop((30, 40))(picture(), target())[1]
    assert torch.equal(same["boxes"], target()["boxes"])
    assert T.RandomSizeCrop(50, 60)(picture(), None)[0].size == (40, 30)
    assert T.RandomResize([60], max_size=1333)(picture())[0].size == (80, 60)
    assert T.RandomHorizontalFlip(1.0)(picture(), target())[1]["boxes"][0, 0] == 20
    assert T.RandomHorizontalFlip(0.0)(picture(), target())[1]["boxes"][0, 0] == 10
    assert T.RandomPad(0)(picture(), None)[0].size == (40, 30)
    chosen = T.RandomSelect(T.RandomResize([15]), T.RandomResize([60]), p=0.0)
    assert chosen(picture(), None)[0].size == (80, 60)
    pixels, _ = T.ToTensor()(picture(), None)
    assert pixels.dtype == torch.float32 and pixels.max() == 1 and pixels.shape == (3, 30, 40)
    assert T.RandomErasing(p=1.0, value=0.5)(pixels, None)[0].eq(0.5).any()
    pipeline = T.Compose([T.ToTensor(), T.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    pixels, relative = pipeline(picture(), target())
    assert pixels[0, 0, 0] == pytest.approx(-0.485 / 0.229)
    assert relative["boxes"].tolist()[0] == pytest.approx([15 / 40, 10 / 30, 10 / 40, 10 / 30])


def test_random_crops_stay_inside():
    torch.manual_seed(0)
    sizes = {T.RandomSizeCrop(10, 20)(picture(), None)[0].size for _ in range(100)}
    assert len(sizes) > 20
    assert {side for size in sizes for side in size} <= set(range(10, 21))


def test_annotations_become_a_target_for_the_transforms():
    objects = [
        {"bbox": [10, 5, 10, 10], "category_id": 3, "area": 90, "segmentation": SQUARE,
         "keypoints": [11, 6, 2, 0, 0, 0]},
        {"bbox": [30, 20, 20, 20], "category_id": 4, "area": 7, "segmentation": SQUARE,
         "keypoints": [0, 0, 0, 31, 21, 1]},
        {"bbox": [0, 0, 9, 9], "category_id": 5, "area": 1, "segmentation": SQUARE, "iscrowd": 1},
        {"bbox": [40, 5, 3, 8], "category_id": 6, "area": 1, "segmentation": SQUARE},
    ]  # fmt: skip
    entry = {"image_id": 12, "annotations": objects}
    image, made = ConvertCocoPolysToMask(return_masks=True)(picture(), entry)
    assert made["boxes"].tolist() == [[10, 5, 20, 15], [30, 20, 40, 30]]  # clipped
    assert made["labels"].tolist() == [3, 4] and made["area"].tolist() == [90, 7]
    assert made["image_id"].tolist() == [12] and made["iscrowd"].tolist() == [0, 0]
    assert made["orig_size"].tolist() == made["size"].tolist() == [30, 40]
    assert made["masks"].dtype == torch.bool and made["masks"].sum() == 200
    assert made["keypoints"][1].tolist() == [[0, 0, 0], [31, 21, 1]]
    pixels, ready = make_coco_transforms("val", 60)(image, made)
    assert pixels.shape == (3, 60, 80) and ready["masks"].shape == (2, 60, 80)
    assert ready["boxes"][0].tolist() == pytest.approx([15 / 40, 10 / 30, 10 / 40, 10 / 30])
    assert torch.equal(make_coco_transforms("val", 60)(image, None)[0], pixels)
    assert ConvertCocoPolysToMask()(image, {"image_id": 1, "annotations": []})[1][
        "boxes"
    ].shape == (0, 4)


# ---- scoring ----


@pytest.fixture
def dataset(tmp_path):
    """One image with one object."""
    images, annotations = make_split(
        # Not id 0, which is the default: pycocotools never finds such an object.
        tmp_path,
        [{"id": 5, "category_id": 1, "bbox": [10, 5, 10, 10], "segmentation": SQUARE}],
        height=30,
        width=40,
    )
    return CocoDetection(images, annotations, make_coco_transforms("val", 60), return_masks=True)


def test_a_dataset_without_transforms(dataset):
    dataset.transforms = None
    image, made = dataset[0]
    assert image.size == (40, 30) and made["boxes"].tolist() == [[10, 5, 20, 15]]


def test_coco_object_of_a_dataset(dataset):
    coco = get_coco_api_from_dataset(Subset(Subset(dataset, [0]), [0]))
    (image_id,) = coco.getImgIds()
    assert coco.loadImgs(image_id)[0]["file_name"] == "a.png"
    (annotation,) = coco.loadAnns(coco.getAnnIds(image_id))
    assert annotation["bbox"] == [10, 5, 10, 10] and coco.annToMask(annotation).sum() == 100
    assert get_coco_api_from_dataset(Subset([1, 2], [0])) is None


def test_evaluator_of_a_coco_object(dataset, capsys):
    evaluator = CocoEvaluator(get_coco_api_from_dataset(dataset), ["bbox", "segm"])
    mask = torch.zeros(1, 30, 40, dtype=torch.bool)
    mask[0, 5:15, 10:20] = True
    found = {"boxes": torch.tensor([[10.0, 5, 20, 15]]), "labels": torch.tensor([1]),
             "scores": torch.tensor([0.9]), "masks": mask}  # fmt: skip
    evaluator.update({int(dataset.annotations.image_ids[0]): found})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    for iou_type in ("bbox", "segm"):
        assert evaluator.coco_eval[iou_type].stats[0] == pytest.approx(1)


def test_boxes_are_corner_and_size():
    assert convert_to_xywh(torch.tensor([[1.0, 2, 4, 8]])).tolist() == [[1, 2, 3, 6]]


def coco_eval(dataset) -> COCOeval:
    coco = get_coco_api_from_dataset(dataset)
    results = [{"image_id": coco.getImgIds()[0], "category_id": 1, "bbox": [10, 5, 10, 10],
                "score": 0.5}]  # fmt: skip
    return COCOeval(coco, coco.loadRes(results), "bbox")


def test_evaluated_images_become_one_evaluation(dataset, capsys):
    part = coco_eval(dataset)
    capsys.readouterr()
    ids, images = evaluate(part)
    assert capsys.readouterr().out == ""
    assert list(ids) == part.params.imgIds
    assert images.shape == (len(part.params.catIds), 4, 1)
    create_common_coco_eval(part, ids, images)
    part.accumulate()
    part.summarize()
    assert part.stats[0] == pytest.approx(1)


def merged(rank: int) -> list:
    """One of two processes: image 5 is on both."""
    ids = [[5, 9], [2, 5]][rank]
    ids, images = merge(ids, np.array([[[f"{rank} {i}" for i in ids]]]))
    return [ids.tolist(), images.tolist()]


def test_processes_are_merged_by_image(tmp_path):
    wanted = [[2, 5, 9], [[["1 2", "0 5", "0 9"]]]]
    assert in_two_processes(merged, tmp_path) == [wanted] * 2
