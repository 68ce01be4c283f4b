"""Checkpoints from which training cannot resume, and invalid rows of a log."""

import re

import torch

from tests.hostile.checkpoints import content_of


def changed(key: str, name: str, says: str, /, *places, **values) -> None:
    """Add a case: a valid checkpoint with other values somewhere below `key`."""

    def at(part, places):
        if not places:
            return {**part, **values}
        copied = part.copy()
        copied[places[0]] = at(part[places[0]], places[1:])
        return copied

    content_of(name, says, **{key: lambda part: at(part, places)})


content_of("an optimizer that is a text", "optimizer is 'adam', not a dictionary", optimizer="adam")
content_of("an optimizer of other parameters", "trained other parameters",
           optimizer=lambda o: {**o, "param_groups": o["param_groups"][:1]})  # fmt: skip
content_of("an optimizer without groups", "optimizer has no 'param_groups'",
           optimizer=lambda o: {"state": o["state"]})  # fmt: skip
content_of("an optimizer of three groups", "has 3 entries, not 0 to 2",
           optimizer=lambda o: {**o, "param_groups": o["param_groups"][:1] * 3})  # fmt: skip
content_of("parameters twice", "a parameter twice",
           optimizer=lambda o: {**o, "param_groups": o["param_groups"][:1] * 2})  # fmt: skip
content_of("a state of no parameter", "a state without a parameter",
           optimizer=lambda o: {**o, "state": {**o["state"], 10**6: o["state"][0]}})  # fmt: skip
for says, values in {
    "amsgrad'] is True, not False": {"amsgrad": True},
    "maximize'] is True, not False": {"maximize": True},
    "betas'] is 'ab', not a list": {"betas": "ab"},
    "betas'][1] is 2.0, not a number": {"betas": (0.9, 2.0)},
    "betas'] has 1 entries, not 2": {"betas": (0.9,)},
    "lr'] is -0.1, not a number": {"lr": -0.1},
    "lr'] is nan, not a finite number": {"lr": float("nan")},
    "lr'] is a tensor": {"lr": torch.tensor(1e-4)},
    "initial_lr'] is -1, not a number": {"initial_lr": -1},
    "eps'] is -1e-08, not a number": {"eps": -1e-8},
    "weight_decay'] is inf, not a finite": {"weight_decay": float("inf")},
    "params'] is 3, not a list": {"params": 3},
}.items():
    changed("optimizer", f"optimizer: {says}", re.escape(says), "param_groups", 0, **values)
for name, says, values in (
    ("of another shape", "exp_avg of .* is .*, the parameter", {"exp_avg": torch.ones(3)}),
    ("of NaN", "exp_avg'] holds numbers that are not finite", {"exp_avg": torch.ones(3) / 0}),
    ("below 0", "exp_avg_sq'] holds numbers below 0", {"exp_avg_sq": -torch.ones(3)}),
    ("that are a text", "exp_avg'] is 'text', not a tensor", {"exp_avg": "text"}),
    ("of a step that is a text", "step'] is 'three', not a number", {"step": "three"}),
    ("of a step before all", "step'] holds numbers below 0", {"step": torch.tensor(-3.0)}),
    ("of several steps", "step'] is a tensor of 1 dim", {"step": torch.ones(2)}),
):
    changed("optimizer", f"moments {name}", says.replace("']", r"'\]"), "state", 0, **values)
content_of("moments that are missing", "has no 'exp_avg_sq'",
           optimizer=lambda o: {**o, "state": {0: {"step": 1, "exp_avg": torch.ones(1)}}},
)  # fmt: skip

content_of("a schedule that is a number", "lr_scheduler is 3, not a dictionary", lr_scheduler=3)
for says, values in {
    "step_size'] is 0, not a whole number of at least 1": {"step_size": 0},
    "step_size'] is 'x', not a whole": {"step_size": "x"},
    "gamma'] is nan, not a finite": {"gamma": float("nan")},
    "gamma'] is 10, not a number from 0 to 1": {"gamma": 10},
    "base_lrs'] has 1 entries, not 2": {"base_lrs": [1e-4]},
    "base_lrs'][0] is -1, not a number": {"base_lrs": [-1, 1]},
    "last_epoch'] is -1, not a whole": {"last_epoch": -1},
    "last_epoch'] is None, not a whole": {"last_epoch": None},
}.items():
    changed("lr_scheduler", f"schedule: {says}", re.escape(says), **values)

for key, says, values in (
    ("epoch", "an epoch", ("three", -7, 10**12, True, 2.0, torch.tensor(1))),
    ("step", "a step", ("three", -3, 10**30)),
):
    for value in values:
        content_of(f"{says}: {value}", f"it: {key} is .*, not a whole number", **{key: value})

content_of("random states that are none", r"processes\[0\]\['random'\] is 1", processes=[
    {"random": 1}])  # fmt: skip
for says, places, values in (
    ("python'] has 2 entries, not 3", (), {"python": [3, None]}),
    ("python'][1] has 3 entries, not 625", (), {"python": (3, (1, 2, 3), None)}),
    ("pos'] is 1000, not a whole number", ("numpy", "state"), {"pos": 1000}),
    ("key'] is a tensor of 2 dim", ("numpy", "state"), {"key": torch.ones(2, 2).long()}),
    ("key'] has 3 elements, not 624", ("numpy", "state"), {"key": torch.ones(3).long()}),
    ("bit_generator'] is 'PCG64', not MT", ("numpy",), {"bit_generator": "PCG64"}),
    ("torch'] is a tensor of 1 dimension(s) of float32", (), {"torch": torch.ones(3)}),
    ("RNG state size to be 3", (), {"torch": torch.ones(3).byte()}),
):
    changed("processes", f"random state: {says}", re.escape(says), 0, "random", *places, **values)
for says, values in {
    "sums of other numbers than it names": {"names": ["a"]},
    "names'][0] is 1, not a string": {"names": [1]},
    "sums'] is a tensor of 1 dimension(s) of int64": {"sums": torch.ones(1).long()},
    "sums'] holds numbers that are not finite": {"sums": torch.ones(1).double() / 0},
    "count'] is -1, not a whole number": {"count": -1},
    "count'] is a number of 100 bits": {"count": 10**30},
}.items():
    changed("processes", f"metrics: {says}", re.escape(says), 0, "metrics", **values)
content_of("a process without metrics", "has no 'metrics'",
           processes=lambda p: [{"random": p[0]["random"]}])  # fmt: skip

content_of("a log that is a number", "log is 7, not a list", log=7)
CYCLE = {"epoch": 0}
CYCLE["more"] = CYCLE
# Of log.txt, too.
BAD_ROWS = {
    "a row without its epoch": ("has no 'epoch'", {"train_loss": 1.0}),
    "an epoch of a row that is a text": (r"\['epoch'\] is 'one'", {"epoch": "one"}),
    "an epoch of a row that is huge": (r"\['epoch'\] is 1000000000000", {"epoch": 10**12}),
    "a loss that is a text": (r"\['train_loss'\] is 'low', not a number",
                              {"epoch": 0, "train_loss": "low"}),
    "a loss that is nothing": (r"\['train_loss'\] is None", {"epoch": 0, "train_loss": None}),
    "a loss of 10^400": ("a number of 1329 bits", {"epoch": 0, "train_loss": 10**400}),
    "AP that is a text": (r"\['test_coco_eval_bbox'\] is 'x', not a list",
                          {"epoch": 0, "test_coco_eval_bbox": "x"}),
    "AP of too few numbers": ("has 3 entries, not 12",
                              {"epoch": 0, "test_coco_eval_bbox": [1] * 3}),
    "AP of texts": (r"\[0\] is '1', not a number", {"epoch": 0, "test_coco_eval_bbox": ["1"] * 12}),
    "AP of 10^400": ("a number of 1329 bits", {"epoch": 0, "test_coco_eval_bbox": [10**400] * 12}),
    "AP of classes that is a list": ("test_coco_eval_bbox_per_class'.* is a list of 1",
                                     {"epoch": 0, "test_coco_eval_bbox_per_class": [1]}),
    "PQ that is a number": (r"\['test_PQ_all'\] is 1, not a dict", {"epoch": 0, "test_PQ_all": 1}),
    "PQ without its parts": (r"\['test_PQ_all'\] has no 'pq'", {"epoch": 0, "test_PQ_all": {}}),
    "a name of 900,000 letters": ("a string of 900000 characters", {"epoch": 0, "a" * 900_000: 1}),
    "rows that are nested": ("nested too deep", {"epoch": 0, "a": [[[[[]]]]]}),
}  # fmt: skip
for name, (says, row) in {
    **BAD_ROWS,
    "a row that is a number": (r"log\[0\] is 3, not a dictionary", 3),
    "a row with a tensor": (r"log\[0\]\['a'\] is a tensor", {"epoch": 0, "a": torch.ones(2)}),
    "a row with bytes": (r"log\[0\]\['a'\] is of type bytes", {"epoch": 0, "a": b"a"}),
    "a row that holds itself": ("nested too deep", CYCLE),
}.items():
    content_of(f"log: {name}", says, log=[row])
content_of("a pending row that is a number", "pending is 3, not a dictionary", pending=3)
content_of("a pending row with a tensor", "pending.* is a tensor", pending={"a": torch.ones(2)})
content_of("averaged weights of no age", "no 'ema_updates' beside 'ema'", ema={})
content_of("a scaler that is a text", "scaler is 'text', not a dictionary", scaler="text")
