"""From masks to one segment a pixel: cases with known answers, and a loop over random ones."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from models.postprocess import PostProcessPanoptic

THINGS = {1, 2, 3}
CLASSES = 10  # 4 to 9 are stuff


def outputs_of(*queries):
    """(label, probability, mask (h, w)) each; the other classes share what is left."""
    logits = torch.full((len(queries), CLASSES + 1), 0.0)
    for row, (label, probability, _) in zip(logits, queries, strict=True):
        row[:] = (1 - probability) / CLASSES
        row[label] = probability
    masks = torch.stack([mask for *_, mask in queries]).float()
    return {"pred_logits": logits.log()[None], "pred_masks": masks[None]}


def place(rows, columns, height=16, width=24, value=9.0):
    """A mask at full size: `value` there, -9 elsewhere."""
    mask = torch.full((height, width), -9.0)
    mask[slice(*rows), slice(*columns)] = value
    return mask


def run(outputs, size=(16, 24), wanted=None):
    sizes = torch.tensor([size])
    (found,) = PostProcessPanoptic(THINGS)(
        outputs, sizes, None if wanted is None else torch.tensor([wanted])
    )
    ids = found["ids"]
    assert ids.dtype == torch.int32 and ids.device.type == "cpu"
    for segment in found["segments_info"]:
        assert segment["area"] == (ids == segment["id"]).sum()
        assert segment["isthing"] == (segment["category_id"] in THINGS)
    assert set(ids.unique().tolist()) <= {0, *(s["id"] for s in found["segments_info"])}
    return ids, found["segments_info"]


def test_things_stay_apart_and_stuff_is_one():
    ids, segments = run(
        outputs_of(
            (1, 0.9, place((0, 8), (0, 8))),
            (1, 0.95, place((0, 8), (8, 16))),
            (5, 0.9, place((8, 16), (0, 24), value=2)),
            (5, 0.99, place((0, 8), (16, 24))),
        )
    )
    assert [s["category_id"] for s in segments] == [1, 1, 5]
    assert [s["area"] for s in segments] == [64, 64, 16 * 24 - 128]
    assert ids[0, 0] == 1 and ids[0, 8] == 2 and ids[15, 0] == ids[0, 23] == 3


def test_unsure_queries_and_no_object_have_no_segment():
    ids, segments = run(
        outputs_of(
            (1, 0.84, place((0, 16), (0, 24))),
            (CLASSES, 0.99, place((0, 16), (0, 24))),
            (2, 0.86, place((0, 8), (0, 8))),
        )
    )
    assert [s["category_id"] for s in segments] == [2]
    assert (ids == 1).all()  # every pixel is the only query's


def test_no_query_at_all():
    ids, segments = run(outputs_of((1, 0.2, place((0, 1), (0, 1)))), wanted=(5, 7))
    assert ids.shape == (5, 7) and not ids.any() and segments == []


@pytest.mark.parametrize(("side", "kept"), [(2, False), (3, True)])
def test_tiny_segments_go_to_the_next_best(side, kept):
    """4 pixels are dropped, 9 are not."""
    ids, segments = run(
        outputs_of(
            (3, 0.9, place((0, side), (0, side))),
            (1, 0.9, place((0, 16), (0, 12), value=3)),
            (4, 0.9, place((0, 16), (12, 24), value=3)),
        )
    )
    assert [s["category_id"] for s in segments] == ([3, 1, 4] if kept else [1, 4])
    assert ids[0, 0] == 1 and ids[15, 0] == (2 if kept else 1)


def test_the_first_of_equal_masks_wins():
    """Also where the second is enlarged later than the first; here as argmax has it."""
    everywhere = place((0, 16), (0, 24))
    queries = [(label, 0.9, everywhere) for label in (2, 1, 3, 4, 5, 6, 7, 8, 9, 1)]
    _, segments = run(outputs_of(*queries))
    assert [s["category_id"] for s in segments] == [2]


def test_stuff_stays_merged_when_others_are_dropped():
    _, segments = run(
        outputs_of(
            (3, 0.9, place((0, 2), (0, 2))),
            (4, 0.9, place((0, 16), (0, 8), value=3)),
            (1, 0.9, place((0, 16), (8, 16), value=3)),
            (4, 0.9, place((0, 16), (16, 24), value=3)),
        )
    )
    assert [(s["category_id"], s["area"]) for s in segments] == [(4, 256), (1, 128)]


def test_a_small_part_of_stuff_is_no_segment_of_its_own():
    _, segments = run(
        outputs_of(
            (4, 0.9, place((0, 2), (0, 2))),
            (4, 0.9, place((0, 16), (0, 12), value=3)),
            (1, 0.9, place((0, 16), (12, 24), value=3)),
        )
    )
    assert [(s["category_id"], s["area"]) for s in segments] == [(4, 192), (1, 192)]


def test_maps_are_brought_to_the_original_size_as_pillow_does():
    mask = torch.randn(4, 16, 24, generator=torch.Generator().manual_seed(0))
    queries = [(label, 0.9, m) for label, m in zip((1, 2, 3, 4), mask, strict=True)]
    small, _ = run(outputs_of(*queries))
    large, _ = run(outputs_of(*queries), wanted=(37, 41))
    wanted = Image.fromarray(small.numpy()).resize((41, 37), Image.Resampling.NEAREST)
    assert large.tolist() == np.asarray(wanted).tolist()


def test_padding_is_cut_off():
    """Masks cover the padded batch; an image's part of them is that in the corner."""
    mask = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = outputs_of(*[(label, 0.9, m) for label, m in zip((1, 2, 4), mask[0], strict=True)])
    outputs = {"pred_logits": logits["pred_logits"].repeat(2, 1, 1), "pred_masks": mask}
    sizes = torch.tensor([(32, 20), (16, 32)])
    for image, found in enumerate(PostProcessPanoptic(THINGS)(outputs, sizes)):
        height, width = sizes[image].tolist()
        full = F.interpolate(mask[image][None], size=(32, 32), mode="bilinear")[0].argmax(0) + 1
        assert torch.equal(found["ids"], full[:height, :width].int())


def by_pixel(queries, size):
    """The definition, one pixel at a time, for masks at full size; ids of segments are free."""
    queries = list(queries)
    while queries:
        names = [
            ("thing", number) if label in THINGS else ("stuff", label)
            for number, (label, _) in enumerate(queries)
        ]
        owner, count = {}, dict.fromkeys(names, 0)
        for i in range(size[0]):
            for j in range(size[1]):
                best = max(range(len(queries)), key=lambda q: (queries[q][1][i][j], -q))
                owner[i, j] = names[best]
                count[names[best]] += 1
        if min(count.values()) > 4:
            labels = {name: label for name, (label, _) in zip(names, queries, strict=True)}
            return owner, labels
        queries = [q for q, name in zip(queries, names, strict=True) if count[name] > 4]
    return {}, {}


@pytest.mark.parametrize("seed", range(8))
def test_random_masks_against_the_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    count, size = int(torch.randint(1, 20, (), generator=generator)), (9, 11)
    labels = torch.randint(1, CLASSES, (count,), generator=generator).tolist()
    masks = torch.randn(count, *size, generator=generator)
    masks += torch.randn(count, 1, 1, generator=generator)
    ids, segments = run(
        outputs_of(*[(label, 0.9, m) for label, m in zip(labels, masks, strict=True)]), size
    )
    owner, names = by_pixel(zip(labels, masks.tolist(), strict=True), size)
    categories = {s["id"]: s["category_id"] for s in segments}
    pairs = {(int(ids[place]), name) for place, name in owner.items()}
    assert len(pairs) == len(segments) == len(names)  # one to one
    assert all(categories[number] == names[name] for number, name in pairs)
