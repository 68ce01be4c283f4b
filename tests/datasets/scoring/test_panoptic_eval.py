"""The evaluator of panoptic quality: several processes, and the results that it saves."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.masks import rgb2id
from datasets.panoptic_eval import PanopticEvaluator
from datasets.scoring.panoptic import compare, panoptic_quality
from tests.datasets.scoring.panoptic_cases import CATEGORIES, random_image
from tests.helpers.two_processes import in_two_processes
from util.errors import UserError

IMAGES = 60  # of the runs of one and of two processes


class RandomTruth:
    """Images of `random_image` by id, and what was found on them."""

    def __init__(self, count: int):
        rng = np.random.default_rng(1)
        self.images = {int(i): random_image(rng) for i in rng.permutation(count) * 7 + 1}
        self.annotations = SimpleNamespace(categories=CATEGORIES)

    def truth(self, image_id: int) -> tuple[np.ndarray, list[dict]]:
        return self.images[image_id][:2]

    def found(self, image_id: int) -> dict:
        _, _, ids, found = self.images[image_id]
        return {"ids": torch.from_numpy(ids), "segments_info": found}


def evaluated(truth: RandomTruth, image_ids: list[int], folder) -> PanopticEvaluator:
    evaluator = PanopticEvaluator(truth, keep_maps=True)
    for image_id in image_ids:
        evaluator.update({image_id: truth.found(image_id)})
    evaluator.synchronize_between_processes()
    evaluator.summarize()
    evaluator.save(folder)
    return evaluator


def part_of(truth: RandomTruth, rank: int) -> list[int]:
    """Return the ids of every other image, in descending order."""
    return sorted(truth.images)[::-1][rank::2]


def evaluate_part(rank: int, out) -> str:
    """Evaluate as one of two processes; returns the numbers as JSON."""
    truth = RandomTruth(IMAGES)
    evaluator = evaluated(truth, part_of(truth, rank), out / f"maps{rank}")
    return json.dumps([evaluator.stats, list(evaluator.by_category.items())])


def test_two_processes_give_the_bits_of_one(tmp_path, capsys):
    truth = RandomTruth(IMAGES)
    one = evaluated(truth, sorted(truth.images), tmp_path / "maps")
    assert "Stuff" in capsys.readouterr().out
    assert list(one.stats) == ["PQ_all", "PQ_th", "PQ_st"]
    assert one.stats["PQ_all"]["n"] == 4 and 0 < one.stats["PQ_all"]["pq"] < 1
    wanted = json.dumps([one.stats, list(one.by_category.items())])
    in_turn = [compare(*truth.images[i]) for rank in range(2) for i in part_of(truth, rank)]
    assert panoptic_quality(in_turn, CATEGORIES)[1] != one.by_category  # the case can tell
    assert in_two_processes(evaluate_part, tmp_path, tmp_path) == [wanted] * 2
    assert not (tmp_path / "maps1").exists()
    files = sorted(file.name for file in (tmp_path / "maps").iterdir())
    assert len(files) == IMAGES + 1
    assert files == sorted(file.name for file in (tmp_path / "maps0").iterdir())
    for name in files:
        assert (tmp_path / "maps" / name).read_bytes() == (tmp_path / "maps0" / name).read_bytes()


def test_results_are_saved_as_coco_wants_them(tmp_path):
    truth = RandomTruth(6)
    folder = tmp_path / "new" / "maps"
    for _ in range(2):  # over those of an earlier evaluation
        evaluated(truth, list(truth.images), folder)
    entries = json.loads((folder / "predictions.json").read_text())["annotations"]
    assert [entry["image_id"] for entry in entries] == sorted(truth.images)
    for entry in entries:
        found = truth.found(entry["image_id"])
        assert entry["file_name"] == f"{entry['image_id']:012}.png"
        assert entry["segments_info"] == found["segments_info"]
        with Image.open(folder / entry["file_name"]) as png:
            assert png.mode == "RGB"
            assert np.array_equal(rgb2id(np.asarray(png)), found["ids"].numpy())


def test_results_that_cannot_be_saved(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=f"^{tmp_path / 'file'}: cannot write the panoptic results"):
        PanopticEvaluator(RandomTruth(1), keep_maps=True).save(tmp_path / "file")
