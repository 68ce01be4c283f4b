"""What differs from sample to sample and from epoch to epoch, and what does not."""

import json

from datasets import build_dataset
from datasets.coco import CocoDetection
from datasets.loaders import build_loaders
from datasets.transforms import make_coco_transforms
from tests.helpers.data import assert_same_samples, make_split


def test_samples_of_one_epoch_differ(tmp_path):
    """Twelve copies of an image come in different sizes."""
    images, annotations = make_split(tmp_path, [], size=(64, 48))
    content = json.loads(annotations.read_text())
    content["images"] = [{"id": i, "file_name": "a.png"} for i in range(12)]
    annotations.write_text(json.dumps(content))
    dataset = CocoDetection(images, annotations, make_coco_transforms("detr", 64))
    assert len({image.shape for image, _ in dataset}) > 4


def test_validation_is_not_augmented(varied_shapes, args):
    options = args("--coco_path", varied_shapes, "--image_size", 64, "--augment", "detr")
    dataset = build_dataset("val", options)
    first = list(dataset)
    dataset.set_epoch(1)
    assert_same_samples(first, dataset)


def test_the_rest_of_an_epoch(shapes, args):
    """After two of eight batches; the next epoch is whole again, and in another order."""
    options = args("--coco_path", shapes, "--image_size", 64, "--batch_size", 2, "--num_workers", 0)
    loader, _ = build_loaders(options)

    def ids():
        return [[target["image_id"].item() for target in targets] for _, targets in loader]

    loader.set_position(3, 0)
    whole = ids()
    loader.set_position(3, 2)
    assert len(loader) == 6 and ids() == whole[2:]
    loader.set_position(4, 0)
    assert len(loader) == 8 and ids() != whole
