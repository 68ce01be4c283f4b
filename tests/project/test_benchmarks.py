"""What benchmarks compare computes the same thing."""

import argparse
import importlib.util
import json
import shutil
import sys
from types import ModuleType

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from datasets.coco import CocoDetection
from datasets.transforms import make_coco_transforms
from detection_task import build_optimizer
from models import build_model
from rpe_ops.irpe import build_rpe, get_rpe_config
from tests.helpers.commands import ROOT, TINY_MODEL
from util.box_ops import box_cxcywh_to_xyxy
from util.misc import nested_tensor_from_tensor_list


@pytest.fixture
def benchmarks(monkeypatch):
    """Return a function that imports a script of benchmarks/ by its name.

    The module gets another name: detector.py and rpe_ops.py would hide modules of the project.
    """
    folder = ROOT / "benchmarks"
    monkeypatch.syspath_prepend(folder)  # scripts import their neighbours

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"benchmark_{name}", folder / f"{name.replace('.', '/')}.py"
        )
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


def random_targets(benchmarks):
    targets = benchmarks("matching").random_targets(3, 2, torch.device("cpu"))
    assert [len(target["labels"]) for target in targets] == [0, 2, 4]
    return targets


def test_the_baseline_computes_what_the_model_computes(args, benchmarks):
    options = [*TINY_MODEL, "--dropout", "0", "--resume", "nothing is fetched then"]
    arguments = args(*options, "--backbone_weights", "imagenet")
    found = []
    targets = random_targets(benchmarks)
    images = nested_tensor_from_tensor_list([torch.randn(3, 96 - 8 * i, 128) for i in range(3)])
    for published in (True, False):
        torch.manual_seed(0)
        model, criterion, _ = build_model(arguments)
        optimizer = build_optimizer(model, arguments)
        if published:
            benchmarks("published.model").make_baseline(model, criterion, optimizer)
            assert not any(group["fused"] for group in optimizer.param_groups)
        losses = criterion(model(images), targets)
        sum(losses[name] * weight for name, weight in criterion.weight_dict.items()).backward()
        optimizer.step()
        state = [p.detach() for p in model.parameters()]
        found.append(([losses[name] for name in criterion.weight_dict], state))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
    # A step is lr in size whatever the gradient's: where that is about zero, signs may differ.
    steps = zip(*(state for _, state in found), strict=True)
    assert max((one - other).abs().max().item() for one, other in steps) <= 2.1 * arguments.lr


def test_matching_is_the_same(benchmarks):
    matching = benchmarks("matching")
    torch.manual_seed(0)
    logits = torch.randn(matching.LAYERS, 3, 20, matching.CLASSES + 1)
    boxes = matching.random_boxes(matching.LAYERS, 3, 20)
    targets = random_targets(benchmarks)
    matcher = matching.HungarianMatcher(1, 5, 2)
    criterion = matching.BaselineCriterion(matching.CLASSES, matcher, {}, 0.1)
    for layer, matches in enumerate(matcher.match_layers(logits, boxes, targets)):
        outputs = {"pred_logits": logits[layer], "pred_boxes": boxes[layer]}
        for one, other in zip(criterion.match(outputs, targets), matches, strict=True):
            torch.testing.assert_close(one, other)


def test_ways_of_attention_are_the_same(benchmarks):
    attention = benchmarks("attention")
    torch.manual_seed(0)
    qkv = [torch.randn(1, 8, 12, 32) / 4 for _ in range(3)]
    ways = attention.variants((3, 4), qkv[0])
    ways.pop("with, ready bias")  # a random one
    for kind in ("without", "with"):
        outs = [way(*qkv) for name, way in ways.items() if name.startswith(f"{kind},")]
        assert len(outs) == 3
        for out in outs[1:]:
            torch.testing.assert_close(out, outs[0])
    torch.manual_seed(1)
    rpe = build_rpe(get_rpe_config(2.0), 32, 8)[1]
    torch.nn.init.normal_(rpe.lookup_table_weight)
    flex = attention.with_flex(flex_attention, rpe.table(qkv[0]), rpe.ids(qkv[0], 3, 4), *qkv)
    torch.testing.assert_close(flex, attention.sdpa(*qkv, rpe(qkv[0], 3, 4)))


def test_published_masks_are_the_same(args, benchmarks):
    baseline = benchmarks("published.masks")
    model, _, postprocessors = build_model(args(*TINY_MODEL, "--masks"))
    images = nested_tensor_from_tensor_list([torch.randn(3, 96 - 8 * i, 128) for i in range(2)])
    sizes, originals = torch.tensor([(96, 128), (88, 128)]), torch.tensor([(50, 70), (200, 300)])
    with torch.no_grad():
        outputs = model.eval()(images)
        here, published = [{}, {}], [{}, {}]
        postprocessors["segm"](here, outputs, originals, sizes)
        baseline.postprocess_all(published, outputs, originals, sizes)
        baseline.use_published_head(model)
        torch.testing.assert_close(
            model(images)["pred_masks"], outputs["pred_masks"], atol=1e-4, rtol=1e-3
        )
    for one, other in zip(here, published, strict=True):
        assert torch.equal(one["masks"], other["masks"]) and one["masks"].any()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("quick", [False, True])
def test_the_runner_gives_options_that_scripts_take(device, quick, benchmarks):
    args = argparse.Namespace(device=device, quick=quick, coco_path="somewhere", json=None)
    for script, *options in benchmarks("run").commands(args).values():
        benchmarks(script.removesuffix(".py")).get_args_parser().parse_args(options)


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_published_samples_are_the_same(benchmarks, shapes, tmp_path, source):
    folder, ann_file = shapes / "val2017", shapes / "annotations" / "instances_val2017.json"
    if source == "archive":
        shutil.make_archive(tmp_path / "val2017", "zip", shapes, "val2017")
        folder = tmp_path / "val2017"
    published = benchmarks("published.data").PublishedDetection(folder, ann_file, train=False)
    here = CocoDetection(folder, ann_file, make_coco_transforms())
    assert len(published) == len(here)
    for index in range(3):
        (pixels, target), (expected, objects) = published[index], here[index]
        torch.testing.assert_close(pixels, expected)
        for name in ("boxes", "labels", "orig_size", "size"):
            torch.testing.assert_close(target[name], objects[name])


def test_published_augmentation_keeps_boxes_inside(benchmarks, shapes):
    folder, ann_file = shapes / "val2017", shapes / "annotations" / "instances_val2017.json"
    published = benchmarks("published.data").PublishedDetection(folder, ann_file, train=True)
    for index in range(6):
        pixels, target = published[index]
        assert pixels.shape[0] == 3 and tuple(target["size"]) == pixels.shape[1:]
        corners = box_cxcywh_to_xyxy(target["boxes"])
        assert corners.shape == (len(target["labels"]), 4)
        assert (corners >= -1e-5).all() and (corners <= 1 + 1e-5).all()


@pytest.mark.slow
def test_detectors_are_compared_in_processes_that_take_turns(benchmarks):
    detector = benchmarks("whole_detector")
    model = "--model_options=--backbone resnet18 --enc_layers 1 --dec_layers 1"
    options = ["--task", "train", "--device", "cpu", model]
    case = detector.Case("small", options, ["--baseline"], ["--keep_memory", "--amp", "bf16"])
    found = detector.compare(case, rounds=2, batch_size=1, size=(96, 128))
    ratio = found["baseline_seconds"] / found["seconds"]
    assert found["times_faster"] == pytest.approx(ratio, rel=0.02)
    assert found["peak_mb"] > 100 and found["baseline_peak_mb"] > 100
    assert len(found["profile"]) == 10 and 0 < sum(share for *_, share in found["profile"]) <= 1


MACHINE_CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_9) ;
.L_x_1:
        /*0020*/                   IADD3 R2, R2, 0x1, RZ ;
.L_x_2:
        /*0030*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0040*/              @!P1 BRA `(.L_x_3) ;
        /*0050*/                   LDG.E R4, [R2.64] ;
        /*0060*/                   FADD R4, R4, R4 ;
.L_x_3:
        /*0070*/              @!P2 CALL.REL.NOINC `(.L_x_4) ;
        /*0080*/                   BRA `(.L_x_2) ;
.L_x_4:
        /*0090*/               @P3 BRA `(.L_x_1) ;
        /*00a0*/                   STG.E [R2.64], R4 ;
.L_x_9:
        /*00b0*/                   EXIT ;
.L_x_10:
        /*00c0*/                   BRA `(.L_x_10);
"""


def test_the_help_of_commands_is_measured(benchmarks, monkeypatch, tmp_path):
    module = benchmarks("commands.help_time")
    found = module.commands()
    for script in ("main.py", "tools/predict.py", "classification/tools/predict.py"):
        assert found[f"python {script} --help"] == [script, "--help"]
    assert next(iter(found)) == module.NOTHING and not any("setup" in name for name in found)

    few = {module.NOTHING: ["-c", "pass"], "slow": ["-c", "import time; time.sleep(4)"],
           "broken": ["-c", "raise ValueError('no such thing')"]}  # fmt: skip
    monkeypatch.setattr(module, "commands", lambda: few)
    path = tmp_path / "times.json"
    module.main(module.get_args_parser().parse_args(["--rounds", "1", "--json", str(path)]))
    broken, nothing, slow = json.loads(path.read_text())["results"]
    assert broken == {"variant": "broken", "error": "RuntimeError: ValueError: no such thing"}
    assert nothing["times_nothing"] == 1 and slow["milliseconds"] > 4000
    assert slow["times_nothing"] > 1


def test_instructions_count_as_often_as_they_run(benchmarks):
    """3 outer and 5 inner iterations; the load and the sum run in a fifth of the inner ones."""
    counts = benchmarks("instructions.sass").executed(MACHINE_CODE, [3, 5], 0.2)
    assert counts["instructions"] == pytest.approx(2 + 3 * (1 + 5 * (2 + 2 * 0.2 + 2) + 1) + 2)
    assert counts["barriers"] == 15 and counts["global_loads"] == pytest.approx(3)


def test_the_page_shows_the_result_files(benchmarks):
    tables = benchmarks("tables")
    page = tables.PAGE.read_text()
    names = {name for _, name, _ in tables.MARKED.findall(page)}
    assert len(names) >= 8
    assert tables.filled(page) == page, "python benchmarks/tables.py brings it up to date"
