"""faster-coco-eval against pycocotools, on a synthetic set of the size of COCO's validation split.

    python benchmarks/scoring.py [--images N] [--rounds N] [--json FILE]

Timed is what an evaluation does after the model: update for every image, gather, accumulate,
summarize. The scorers take turns, and their arrays are compared.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from measure import machine, medians, show, write_json

from datasets.annotations.instances import load_annotations
from datasets.coco_eval import CocoEvaluator
from datasets.scoring import SCORERS

CLASSES = 80
WIDTH, HEIGHT = 640, 480


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", default=5000, type=int, help="default: %(default)s")
    parser.add_argument("--rounds", default=3, type=int, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """(n, 4) float64 (x, y, w, h) inside the image, small ones more often."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(400), (n, 2))).round(2)
    corners = rng.uniform(0, 1, (n, 2)) * (np.array([WIDTH, HEIGHT]) - sizes)
    return np.concatenate([corners.round(2), sizes], axis=1)


def synthetic_coco(images: int, seed: int = 0) -> tuple[dict, dict]:
    """Annotations like COCO's, and detections like those of DETR.

    Returns:
        The content of an instances_*.json file: about 7.3 annotations an image of few classes,
        one in a hundred a crowd. By image id 100 detections, as `CocoEvaluator.update` takes
        them: some are near an object and of its class.
    """
    rng = np.random.default_rng(seed)
    annotations, detections = [], {}
    for image_id in range(1, images + 1):
        count = min(int(rng.exponential(7.8)), 60)
        boxes, present = random_boxes(rng, count), rng.integers(1, CLASSES + 1, 3)
        labels = rng.choice(present, count)
        annotations += [
            {
                "id": len(annotations) + i + 1,
                "image_id": image_id,
                "category_id": int(label),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3] * 0.7),
                "iscrowd": int(rng.random() < 0.01),
            }
            for i, (box, label) in enumerate(zip(boxes, labels, strict=True))
        ]
        found, classes = random_boxes(rng, 100), rng.integers(1, CLASSES + 1, 100)
        hits = min(count, 40)
        found[:hits] = boxes[:hits] * rng.uniform(0.9, 1.1, (hits, 4))
        classes[:hits] = labels[:hits]
        found[:, 2:] += found[:, :2]
        detections[image_id] = {
            "boxes": torch.from_numpy(found).float(),
            "labels": torch.from_numpy(classes),
            "scores": torch.from_numpy(rng.beta(0.5, 2, 100)).float(),
        }
    entries = [
        {"id": i, "file_name": f"{i:012}.jpg", "height": HEIGHT, "width": WIDTH}
        for i in range(1, images + 1)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, CLASSES + 1)]
    return {"images": entries, "annotations": annotations, "categories": categories}, detections


def evaluate(annotations, detections: dict, scorer: str) -> CocoEvaluator:
    """Score all detections, as `engine.evaluate` does; this is timed."""
    evaluator = CocoEvaluator(annotations, scorer=scorer)
    for image_id, found in detections.items():
        evaluator.update({image_id: found})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.summarize()
    return evaluator


def same_results(first: CocoEvaluator, second: CocoEvaluator) -> bool:
    """Return whether all arrays and numbers are equal to 1e-12."""
    left, right = first.coco_eval["bbox"].eval, second.coco_eval["bbox"].eval
    arrays = ("precision", "recall", "scores")
    pairs = [(left[name], right[name]) for name in arrays]
    pairs.append((first.stats["bbox"], second.stats["bbox"]))
    return all(np.allclose(one, other, rtol=0, atol=1e-12) for one, other in pairs)


def main(args: argparse.Namespace) -> None:
    device = torch.device("cpu")
    facts = machine(device)
    content, detections = synthetic_coco(args.images)
    facts["data"] = (
        f"{args.images} images, {len(content['annotations'])} annotations, {CLASSES} classes, "
        f"{sum(len(found['scores']) for found in detections.values())} detections"
    )
    show(facts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        path.write_text(json.dumps(content))
        annotations = load_annotations(path)
    evaluators = {}

    def action(scorer: str):
        def run():
            evaluators[scorer] = evaluate(annotations, detections, scorer)

        return run

    times = medians({scorer: action(scorer) for scorer in SCORERS}, device, args.rounds)
    results = []
    for scorer, seconds in times.items():
        ratio = times["pycocotools"] / seconds
        print(f"{scorer:12} {seconds:8.2f} s {ratio:8.1f} x as fast as pycocotools")
        results.append(
            {"scorer": scorer, "seconds": round(seconds, 3), "times_faster": round(ratio, 2)}
        )
    facts["same results"] = str(same_results(*evaluators.values()))
    print(f"equal to 1e-12: {facts['same results']}")
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
