"""Random pairs of true and found segments."""

import numpy as np

CATEGORIES = [
    {"id": 1, "name": "cat", "isthing": 1},
    {"id": 2, "name": "dog", "isthing": 1},
    {"id": 90, "name": "sky", "isthing": 0},
    {"id": 200, "name": "sea", "isthing": 0},
]
CAT, DOG, SKY, SEA = (category["id"] for category in CATEGORIES)


def random_image(rng: np.random.Generator) -> tuple:
    """True and found maps of overlapping rectangles, most found ones near a true one."""
    shape = rng.integers(3, 16, 2)
    maps, lists = np.zeros((2, *shape), np.int32), ({}, {})
    for _ in range(rng.integers(0, 9)):
        low = rng.integers(0, shape)
        high = low + rng.integers(1, 9, 2)
        category = int(rng.choice([CAT, DOG, SKY, SEA]))
        for ids, listed in zip(maps, lists):
            if rng.random() < 0.15:
                continue
            number = int(rng.integers(1, rng.choice([300, 256**3])))
            ids[low[0] : high[0], low[1] : high[1]] = number
            crowd = int(listed is lists[0] and rng.random() < 0.2)
            listed[number] = {"id": number, "category_id": category, "iscrowd": crowd}
            low = np.maximum(low + rng.integers(-1, 2, 2) * rng.integers(0, 2), 0)
            if rng.random() < 0.2:
                category = int(rng.choice([CAT, DOG, SKY, SEA, 7]))  # 7 is in no list
    maps[0][:, : rng.integers(-shape[1], shape[1]).clip(0)] = 0
    if rng.random() < 0.1:
        maps[1] = 0
    truth, found = (
        [listed[number] for number in listed if (ids == number).any()]
        for ids, listed in zip(maps, lists)
    )
    return maps[0], truth, maps[1], found
