"""Random annotations and detections that meet every special case of COCO's scoring."""

import numpy as np
import torch

from datasets.scoring.detections import Detections


def random_case(seed: int) -> tuple[dict, list[tuple]]:
    """Annotations and detections that meet every special case.

    Few distinct scores and whole-numbered boxes give ties; there are crowds, images without
    objects, without detections and without either, classes without objects, detections of
    unknown classes, ids from below 0 on, and orders that are not those of ids.
    """
    rng = np.random.default_rng(seed)
    images = [{"id": int(i), "file_name": "x"} for i in rng.permutation(np.arange(1, 31) * 3)]
    classes = int(rng.integers(2, 7))
    largest = 12 if seed % 2 else 300  # many overlaps, or all ranges of areas
    first_id = int(rng.integers(-20, 2))
    annotations, detections = [], []
    for image in images:
        objects = []
        for _ in range(rng.integers(0, 8) if rng.random() < 0.8 else 0):
            category, box = int(rng.integers(1, classes)), rng.integers(0, largest, 4)
            objects.append((category, box))
            annotations.append(
                {
                    "id": first_id + len(annotations),
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.choice([1, 0.5])),
                    "iscrowd": int(rng.random() < 0.15),
                }
            )
        for _ in range(rng.integers(0, 120) if rng.random() < 0.8 else 0):
            category, box = int(rng.integers(1, classes + 2)), rng.integers(0, largest, 4)
            if objects and rng.random() < 0.6:
                category, box = objects[rng.integers(len(objects))]
                box = box + rng.integers(-1, 2, 4) * int(rng.random() < 0.5)
            detections.append((image["id"], category, box.tolist(), rng.choice([0.25, 0.5, 0.75])))
    order = rng.permutation(len(annotations))
    categories = [{"id": int(i), "name": f"c{i}"} for i in rng.permutation(classes) + 1]
    content = {"images": images, "annotations": [annotations[i] for i in order]}
    return {**content, "categories": categories, "info": {}}, detections


def as_arrays(detections: list[tuple]) -> Detections:
    images, labels, boxes, scores = zip(*detections, strict=True) if detections else ((),) * 4
    return Detections(
        np.array(images, np.int64), np.array(labels, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32),
    )  # fmt: skip


def found_of(detections: list[tuple], image_id: int) -> dict[str, torch.Tensor]:
    """What the post-processing gives for an image: corners."""
    rows = [d for d in detections if d[0] == image_id]
    boxes = torch.tensor([box for _, _, box, _ in rows], dtype=torch.float32).reshape(-1, 4)
    return {
        "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        "labels": torch.tensor([label for _, label, _, _ in rows], dtype=torch.int64),
        "scores": torch.tensor([float(s) for *_, s in rows], dtype=torch.float32),
    }
