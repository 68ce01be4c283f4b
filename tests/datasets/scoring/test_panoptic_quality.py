"""Panoptic quality: cases worked out by hand, and its definition with sets of pixels."""

import time

import numpy as np
import pytest

from datasets.scoring.panoptic import compare, format_quality, panoptic_quality
from tests.datasets.scoring.panoptic_cases import CAT, CATEGORIES, DOG, SKY, random_image


def drawn(picture: str) -> np.ndarray:
    """Return a map of one row: a dot is void, letters are segments."""
    return np.array([[0 if c == "." else ord(c) for c in picture]], np.int32)


def segments(crowds: str = "", **category: int) -> list[dict]:
    return [
        {"id": ord(letter), "category_id": number, "iscrowd": int(letter in crowds)}
        for letter, number in category.items()
    ]


def quality(*images: tuple) -> tuple[dict, dict]:
    return panoptic_quality([compare(*image) for image in images], CATEGORIES)


def counts(*image, of: int = CAT) -> tuple[int, int, int]:
    row = quality(image)[1][of]
    return row["tp"], row["fp"], row["fn"]


def test_perfect():
    truth = drawn("aaabbccccc.."), segments(a=CAT, b=CAT, c=SKY)
    found = drawn("xxxyyzzzzzzz"), segments(x=CAT, y=CAT, z=SKY)  # void counts for nothing
    rows, by_category = quality((*truth, *found))
    for row, n in (("All", 2), ("Things", 1), ("Stuff", 1)):
        assert rows[row] == {"pq": 1, "sq": 1, "rq": 1, "n": n}
    assert by_category[CAT] == {"pq": 1, "sq": 1, "rq": 1, "tp": 2, "fp": 0, "fn": 0}
    assert by_category[DOG] == {"pq": -1, "sq": -1, "rq": -1, "tp": 0, "fp": 0, "fn": 0}


def test_nothing_counts_where_all_is_void():
    rows, _ = quality((drawn("...."), [], drawn("xxyy"), segments(x=CAT, y=SKY)))
    assert rows["All"] == rows["Stuff"] == {"pq": -1, "sq": -1, "rq": -1, "n": 0}
    assert [line.split() for line in format_quality(rows).splitlines()[2:]] == [
        [name, "|", "-", "-", "-", "0"] for name in ("All", "Things", "Stuff")
    ]


def test_missed_split_and_of_another_category():
    truth = drawn("aaaabbbb"), segments(a=CAT, b=CAT)
    assert counts(*truth, drawn("xxxx...."), segments(x=CAT)) == (1, 0, 1)
    assert counts(*truth, drawn("........"), []) == (0, 0, 2)
    assert counts(*truth, drawn("xxxxyyzz"), segments(x=CAT, y=CAT, z=CAT)) == (1, 2, 1)
    assert counts(*truth, drawn("xxxxyyyy"), segments(x=CAT, y=DOG)) == (1, 0, 1)
    assert counts(*truth, drawn("xxxxyyyy"), segments(x=CAT, y=DOG), of=DOG) == (0, 1, 0)


@pytest.mark.parametrize(("truth_area", "found_area", "tp"), [(1000, 500, 0), (999, 500, 1)])
def test_a_match_needs_an_iou_above_half(truth_area, found_area, tp):
    truth = drawn("a" * truth_area), segments(a=SKY)
    found = drawn("x" * found_area + "." * (truth_area - found_area)), segments(x=SKY)
    assert counts(*truth, *found, of=SKY) == (tp, 1 - tp, 1 - tp)
    assert quality((*truth, *found))[0]["Stuff"]["sq"] == (500 / 999 if tp else 0)


def test_void_is_not_part_of_the_union():
    rows, _ = quality((drawn("aaab....."), segments(a=CAT, b=SKY), drawn(".xxxxxxxx"),
                       segments(x=CAT)))  # fmt: skip
    assert rows["Things"] == {"pq": 0, "sq": 0, "rq": 0, "n": 1}  # IoU 2 / 4
    rows, _ = quality((drawn("aaab....."), segments(a=CAT, b=SKY), drawn("xxxxxxxxx"),
                       segments(x=CAT)))  # fmt: skip
    assert rows["Things"] == {"pq": 0.75, "sq": 0.75, "rq": 1, "n": 1}


def test_more_than_half_on_void_is_no_false_positive():
    truth = segments(a=CAT)
    assert counts(drawn("aaa..."), truth, drawn("..xx.."), segments(x=CAT)) == (0, 1, 1)
    assert counts(drawn("aaa..."), truth, drawn("..xxx."), segments(x=CAT)) == (0, 0, 1)


def test_crowds():
    truth = drawn("aaaaaadd"), segments("a", a=CAT, d=DOG)
    assert counts(*truth, drawn("........"), []) == (0, 0, 0)  # never missed
    assert counts(*truth, drawn("xxxxxx.."), segments(x=CAT)) == (0, 0, 0)  # no match either
    assert counts(*truth, drawn("....xxxx"), segments(x=CAT)) == (0, 1, 0)  # half of it
    assert counts(*truth, drawn("...xxxxx"), segments(x=CAT)) == (0, 0, 0)
    assert counts(*truth, drawn("xxxxxx.."), segments(x=DOG), of=DOG) == (0, 1, 1)
    # Void and all crowds of the category together make more than half.
    truth = drawn("ab.d"), segments("ab", a=CAT, b=CAT, d=DOG)
    assert counts(*truth, drawn("xxxx"), segments(x=CAT)) == (0, 0, 0)


def test_extra_and_missed_segments_count_half():
    truth = drawn("aaaabbbb"), segments(a=CAT, b=CAT)
    rows, _ = quality((*truth, drawn("xxxx..yy"), segments(x=CAT, y=CAT)))
    assert rows["Things"] == {"pq": 0.5, "sq": 1, "rq": 0.5, "n": 1}


def test_means_over_categories():
    """By hand: cat 1 match of IoU 3/4 and 1 missed, dog 1 false positive, sky 1 match of 1."""
    first = (drawn("aaaabbss"), segments(a=CAT, b=CAT, s=SKY),
             drawn("xxx.yyzz"), segments(x=CAT, y=DOG, z=SKY))  # fmt: skip
    other = drawn("...."), [], drawn("...."), []
    rows, by_category = quality(first, other)
    assert by_category[CAT] == {"pq": 0.5, "sq": 0.75, "rq": 2 / 3, "tp": 1, "fp": 0, "fn": 1}
    assert by_category[DOG] == {"pq": 0, "sq": 0, "rq": 0, "tp": 0, "fp": 1, "fn": 0}
    assert rows["Things"] == pytest.approx({"pq": 0.25, "sq": 0.375, "rq": 1 / 3, "n": 2})
    assert rows["Stuff"] == {"pq": 1, "sq": 1, "rq": 1, "n": 1}
    assert rows["All"] == pytest.approx({"pq": 0.5, "sq": 1.75 / 3, "rq": 5 / 9, "n": 3})
    head, _, *table = format_quality(rows).splitlines()
    assert head.split() == ["|", "PQ", "SQ", "RQ", "N"]
    assert [line.split() for line in table] == [
        ["All", "|", "50.0", "58.3", "55.6", "3"],
        ["Things", "|", "25.0", "37.5", "33.3", "2"],
        ["Stuff", "|", "100.0", "100.0", "100.0", "1"],
    ]


def test_found_maps_that_contradict_themselves():
    truth = drawn("aaab"), segments(a=CAT, b=SKY)
    for found, words in (
        ((drawn("xxxy"), segments(x=CAT)), f"found map has id {ord('y')}"),
        ((drawn("xxxx"), segments(x=CAT, y=CAT)), f"{ord('y')} has no pixel"),
        ((drawn("xxxx"), segments(x=CAT) * 2), "different ids"),
        ((drawn("...."), [{"id": 0, "category_id": CAT}]), "different ids above 0"),
        ((drawn("xxx"), segments(x=CAT)), "different shapes"),
        ((drawn("xxxx").T, segments(x=CAT)), "different shapes"),
    ):
        with pytest.raises(ValueError, match=words):
            compare(*truth, *found)


def by_definition(images: list[tuple], category: int) -> tuple[float, int, int, int]:
    """Return the sum of IoUs, TP, FP and FN, worked out with sets of pixels."""
    iou_sum, tp, fp, fn = 0.0, 0, 0, 0
    for truth_ids, truth, found_ids, found in images:
        places = list(np.ndindex(*truth_ids.shape))
        void = {p for p in places if truth_ids[p] == 0}
        true = [(t["iscrowd"], {p for p in places if truth_ids[p] == t["id"]})
                for t in truth if t["category_id"] == category]  # fmt: skip
        mine = [{p for p in places if found_ids[p] == f["id"]}
                for f in found if f["category_id"] == category]  # fmt: skip
        matched = set()
        for crowd, there in true:
            if crowd:
                continue
            hits = [i for i, here in enumerate(mine)
                    if len(here & there) > len((here - void) | there) / 2]  # fmt: skip
            assert len(hits) <= 1
            for i in hits:
                matched.add(i)
                tp += 1
                iou_sum += len(mine[i] & there) / len((mine[i] - void) | there)
            fn += not hits
        ignored = void.union(*(there for crowd, there in true if crowd))
        for i, here in enumerate(mine):
            fp += i not in matched and len(here & ignored) <= len(here) / 2
    return iou_sum, tp, fp, fn


def test_random_images_against_the_definition():
    rng = np.random.default_rng(0)
    images = [random_image(rng) for _ in range(200)]
    for part in (images, *([image] for image in images)):
        _, by_category = panoptic_quality([compare(*image) for image in part], CATEGORIES)
        for category, row in by_category.items():
            iou_sum, tp, fp, fn = by_definition(part, category)
            assert (row["tp"], row["fp"], row["fn"]) == (tp, fp, fn)
            if tp + fp + fn:
                assert row["pq"] == pytest.approx(iou_sum / (tp + fp / 2 + fn / 2), abs=1e-12)
                assert row["sq"] == pytest.approx(iou_sum / tp if tp else 0, abs=1e-12)
                assert row["rq"] == pytest.approx(tp / (tp + fp / 2 + fn / 2), abs=1e-12)
            if part is images:
                assert min(tp, fp, fn) > 15 and iou_sum < tp  # the images can tell
    assert any(s["category_id"] == 7 for image in images for s in image[3])


def test_an_image_of_coco_takes_milliseconds():
    rng = np.random.default_rng(0)
    ids = rng.choice(256**3, 60, replace=False)[:, None, None] + 1
    ids = ids.reshape(6, 10).repeat(80, 0).repeat(64, 1)
    listed = [{"id": int(i), "category_id": CAT, "iscrowd": 0} for i in np.unique(ids)]
    times = []
    for _ in range(5):
        start = time.perf_counter()
        matches = compare(ids, listed, np.roll(ids, 5, axis=1), listed)
        times.append(time.perf_counter() - start)
    assert len(matches.matched) == 60
    assert min(times) < 0.1
