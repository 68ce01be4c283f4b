"""The line of an evaluation."""

from datasets.coco_eval import format_stats
from datasets.score_tables import print_tables, score_lines

NUMBERS = [0.1234, 0.5, -1.0, 0.0, 0.25, -1.0, *[0.9] * 6]


def quality(pq: float, n: int) -> dict:
    return {"pq": pq, "sq": 0.5, "rq": 0.125, "n": n}


def test_a_line_for_each_kind():
    """Nothing to find is "-"; the numbers are COCO's first six, and PQ in percent."""
    scores = {
        "loss": 1.0, "coco_eval_bbox": NUMBERS, "coco_eval_masks": NUMBERS[::-1],
        "PQ_all": quality(0.3, 5), "PQ_th": quality(0.45, 3), "PQ_st": quality(0.0, 0),
    }  # fmt: skip
    assert score_lines(scores) == [
        "boxes  AP 0.123 AP50 0.500 AP75 - S 0.000 M 0.250 L -",
        "masks  AP 0.900 AP50 0.900 AP75 0.900 S 0.900 M 0.900 L 0.900",
        "panoptic  PQ 30.0 SQ 50.0 RQ 12.5 things 45.0 stuff -",
    ]
    assert score_lines({"loss": 1.0}) == []
    assert all(len(f"epoch 300/300  {line}") < 80 for line in score_lines(scores))


def test_tables_are_those_of_the_log(capsys):
    print_tables({"test_coco_eval_bbox": NUMBERS, "test_coco_eval_bbox_AP_uncut": 0.2}, None)
    said = capsys.readouterr().out
    assert said.startswith(f"IoU metric: bbox\n{format_stats(NUMBERS)}\n")
    assert said.count("maxDets=all") == 1
