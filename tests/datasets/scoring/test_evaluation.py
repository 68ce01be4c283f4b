"""The ground truth, evaluated as detections, is found to be right, whatever the sizes of images."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import main as program
from datasets import scoring_annotations
from datasets.loaders import build_loaders
from engine import evaluate
from models import build_model
from models.postprocess import PostProcessPanoptic
from tests.helpers.commands import TINY_RUN
from tests.helpers.panoptic_data import options as panoptic_options
from tests.helpers.panoptic_data import random_picture, write_split
from tests.helpers.toy_training import CPU

QUERIES = 20


class Oracle(nn.Module):
    """Finds what is in the targets, which come batch by batch; images are shown padded.

    Args:
        batches: (samples, targets) of a loader, in its order.
        num_classes: as of the model.
    """

    def __init__(self, batches: list, num_classes: int):
        super().__init__()
        self._batches = iter(batches)
        self.num_classes = num_classes

    def forward(self, samples):
        seen, targets = next(self._batches)
        assert torch.equal(samples.tensors, seen.tensors)
        height, width = samples.tensors.shape[2:]
        classes = torch.full((len(targets), QUERIES), self.num_classes)
        boxes = torch.full((len(targets), QUERIES, 4), 0.5)
        masks = torch.full((len(targets), QUERIES, height, width), -9.0)
        for i, target in enumerate(targets):
            count = len(target["labels"])
            classes[i, :count], boxes[i, :count] = target["labels"], target["boxes"]
            if "masks" in target:
                h, w = target["masks"].shape[1:]
                masks[i, :count, :h, :w] = 18.0 * target["masks"] - 9
        logits = 20.0 * F.one_hot(classes, self.num_classes + 1)
        outputs = {"pred_logits": logits, "pred_boxes": boxes}
        return {**outputs, "pred_masks": masks} if "masks" in targets[0] else outputs


def evaluation_of_the_truth(args) -> tuple[dict, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Return the scores, and (size, orig_size) of each image."""
    args.eval = True
    _, loader = build_loaders(args)
    args.num_classes = loader.dataset.classes.num_classes
    _, criterion, postprocessors = build_model(args)
    batches = list(loader)
    sizes = [(t["size"], t["orig_size"]) for _, targets in batches for t in targets]
    if "panoptic" in postprocessors:
        postprocessors["panoptic"].things = loader.dataset.things()
    truth = scoring_annotations(loader.dataset, args)
    stats, _ = evaluate(
        Oracle(batches, args.num_classes), criterion, postprocessors, loader, truth, CPU
    )
    return stats, sizes


def test_boxes_and_masks_are_scored_in_pixels_of_the_original_images(varied_shapes, args):
    options = args(*TINY_RUN, "--masks", "--coco_path", varied_shapes, "--batch_size", "3")
    options.image_size = 160
    stats, sizes = evaluation_of_the_truth(options)
    assert all(size.min() == 160 and before.min() < 144 for size, before in sizes)
    assert stats["coco_eval_bbox"][0] > 0.99
    # Masks of thin shapes are off by up to a pixel after they went there and back.
    assert stats["coco_eval_masks"][1] > 0.95 and stats["coco_eval_masks"][0] > 0.5
    for name in ("class_error", "loss_bbox", "loss_giou"):
        assert stats[name] == pytest.approx(0, abs=1e-5)


def test_maps_are_scored_in_pixels_of_the_original_images(args, tmp_path):
    write_split(tmp_path, [random_picture(number) for number in range(6)], "val")
    options = args(*TINY_RUN, "--masks", *panoptic_options(tmp_path), "--batch_size", "2")
    options.image_size = 96
    stats, sizes = evaluation_of_the_truth(options)
    assert all(before.max() < 60 < size.max() for size, before in sizes)
    # Here an image can have two segments of the same stuff, which no model finds.
    assert stats["PQ_all"]["n"] == 4 and stats["PQ_th"]["pq"] > 0.9


class Reached(Exception):
    """Raised in place of the call that a test waits for."""


@pytest.fixture
def arguments_of(args, monkeypatch):
    """Return arguments_of(function, *options): what main() passes to `evaluate` or `train`."""

    def of(function, *options):
        def stop(*arguments, **_):
            raise Reached(arguments)

        monkeypatch.setattr(program, function, stop)
        parsed = args(*TINY_RUN, *options)
        parsed.given = None
        with pytest.raises(Reached) as reached:
            program.main(parsed)
        return reached.value.args[0]

    return of


def test_things_are_those_of_the_file(arguments_of, tmp_path):
    """60 and 77 are stuff here, which COCO's own ids up to 90 are not."""
    write_split(tmp_path, [random_picture(1)], "val")
    options = ["--masks", "--eval", *panoptic_options(tmp_path)]
    postprocessors = arguments_of("evaluate", *options)[2]
    assert isinstance(postprocessors["panoptic"], PostProcessPanoptic)
    assert postprocessors["panoptic"].things == {1, 3}


def test_names_of_panoptic_classes_travel_in_the_checkpoint(arguments_of, tmp_path):
    for split in ("train", "val"):
        write_split(tmp_path, [random_picture(1), random_picture(2)], split)
    state = arguments_of("train", *panoptic_options(tmp_path))[0]
    names = state.state_dict()["classes"]
    assert names == {1: "cup", 3: "dog", 60: "sky", 77: "sea"}


def test_names_of_classes_travel_in_the_checkpoint(arguments_of, shapes):
    state = arguments_of("train", "--coco_path", shapes)[0]
    content = json.loads((shapes / "annotations" / "instances_train2017.json").read_text())
    wanted = {category["id"]: category["name"] for category in content["categories"]}
    assert state.state_dict()["classes"] == wanted
