"""The table of classes: numbers, names, and what log.txt keeps of it."""

import json

import pytest
from pycocotools.cocoeval import COCOeval

from datasets.annotations.instances import load_annotations
from datasets.coco_eval import CocoEvaluator, print_classes
from datasets.scoring.coco import score
from datasets.scoring.per_class import class_names, format_classes, from_log, per_class, to_log
from tests.helpers.scoring_cases import as_arrays, found_of, random_case


@pytest.mark.parametrize("scorer", ["faster", "pycocotools"])
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_a_class_scores_as_an_evaluation_of_it_alone(seed, scorer):
    content, detections = random_case(seed)
    found = as_arrays(detections).by_image()
    rows = per_class(score(scorer, content, found), content["categories"])
    assert [row.name for row in rows] == [f"c{i + 1}" for i in range(len(content["categories"]))]
    assert max(row.ap for row in rows) > 0.05
    whole = score("pycocotools", content, found)
    for number, row in enumerate(rows, start=1):
        alone = COCOeval(whole.cocoGt, whole.cocoDt, "bbox")
        alone.params.catIds = [number]
        alone.evaluate()
        alone.accumulate()
        alone.summarize()
        ap, ap50, _, *by_size = alone.stats[:6].tolist()
        assert row[2:] == pytest.approx([ap, ap50, *by_size], abs=1e-12)
        mine = [a for a in content["annotations"] if a["category_id"] == number]
        assert row.objects == sum(not a["iscrowd"] for a in mine)
    # The last class has no object: nothing to score.
    assert rows[-1][1:] == (0, -1, -1, -1, -1, -1)


def test_what_the_log_keeps_gives_the_table_again(tmp_path, capsys):
    content, detections = random_case(0)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    annotations = load_annotations(path)
    evaluator = CocoEvaluator(annotations)
    for image in content["images"]:
        evaluator.update({image["id"]: found_of(detections, image["id"])})
    evaluator.synchronize_between_processes()
    evaluator.accumulate()
    evaluator.summarize()
    rows, logged = evaluator.by_class["bbox"], evaluator.logged()
    assert rows == per_class(evaluator.coco_eval["bbox"], annotations.categories)
    kept = json.loads(json.dumps(logged["coco_eval_bbox_per_class"]))
    assert list(kept) == [row.name for row in rows] and len(kept["c1"]) == 5
    again = from_log(kept, annotations)
    for row, wanted in zip(again, rows, strict=True):
        assert row[:2] == wanted[:2] and row[2:] == pytest.approx(wanted[2:], abs=1e-6)
    table = format_classes(rows)
    capsys.readouterr()
    print_classes({"test_loss": 1.0}, annotations)
    print_classes(logged, annotations)
    assert capsys.readouterr().out == ""
    print_classes(logged, annotations, prefix="")
    assert capsys.readouterr().out == f"Classes, IoU metric: bbox\n{table}\n"
    last = table.splitlines()[-1].split()
    assert last == [rows[-1].name, "0", "-", "-", "-", "-", "-"]
    first = table.splitlines()[1].split()
    assert first == [rows[0].name, str(rows[0].objects), *(f"{v:.3f}" for v in rows[0][2:])]


def test_classes_of_one_name_are_told_apart():
    categories = [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}, {"id": 9, "name": "cat"}]
    assert class_names(categories) == {3: "cat (3)", 1: "dog", 9: "cat (9)"}
    assert to_log([]) == {} and format_classes([]).split()[0] == "class"
