"""Training steps and an evaluation on the pretended CUDA device, one for each way to train.

    python -m tests.pretended_gpu.steps NAME...

prints a line of JSON for each NAME of VARIANTS; see `tests.pretended_gpu.device`.
"""

import json
import sys

import torch

from tests.helpers.commands import TINY_MODEL
from tests.pretended_gpu.device import Counts, pretend_cuda

VARIANTS = {
    "boxes": ["--dropout", "0"],  # so that the CPU computes the same
    "masks": ["--dropout", "0", "--masks"],
    "fused": ["--attention", "fused"],
    "fp16": ["--amp", "fp16"],
    "average": ["--ema", "0.9"],
    "accumulated": ["--accumulate", "2"],
    "panoptic": ["--masks", "--dataset_file", "coco_panoptic", "--amp", "bf16"],
    "published": [
        "--backbone", "resnet50", "--hidden_dim", "256", "--enc_layers", "6", "--dec_layers", "6",
        "--num_queries", "100", "--nheads", "8", "--dim_feedforward", "256",
    ],
}  # fmt: skip
STEPS, IMAGES = 4, 2
THINGS = 4  # classes 0 .. 3


def batch(step: int, masks: bool):
    """Return two images of different sizes with two and three objects."""
    from util.misc import nested_tensor_from_tensor_list

    images = [torch.rand(3, 64, 96), torch.rand(3, 96, 64)]
    targets = []
    for number, image in enumerate(images):
        count = 2 + number
        size = torch.tensor(image.shape[1:])
        target = {
            "boxes": torch.rand(count, 4) * 0.3 + 0.3,
            "labels": torch.randint(0, THINGS, (count,)),
            "image_id": torch.tensor(IMAGES * step + number),
            "area": torch.rand(count),
            "iscrowd": torch.zeros(count, dtype=torch.int64),
            "orig_size": size,
            "size": size,
        }
        if masks:
            target["masks"] = torch.rand(count, *image.shape[1:]) > 0.5
        targets.append(target)
    return nested_tensor_from_tensor_list(images), targets


def measure(counts: Counts, steps: int) -> dict:
    """Return waits of each kind and place, and operators, for a step.

    Operators are "calls", where attention is one and its backward pass another, and "formula",
    where both are those of PyTorch's formula, and copies do not count.
    """
    calls = counts.calls
    others = ("attention", "attention backward", "aten._to_copy.default", "aten.copy_.default")
    formula = calls.total() + counts.of_attention - sum(calls[name] for name in others)
    return {
        "waits": {f"{reason} at {place}": n / steps for (reason, place), n in counts.waits.items()},
        "calls": calls.total() / steps,
        "formula": formula / steps,
    }


def run(options: list[str], device: torch.device, counts: Counts) -> dict:
    """Train for some steps and evaluate; returns what both made the CPU wait for."""
    from arguments import get_args_parser
    from detection_task import build_optimizer
    from engine import evaluate, train_one_epoch
    from models import build_model
    from rpe_ops.attention import trial
    from training.amp import Precision
    from training.consensus import Request
    from training.ema import WeightAverage

    class Hook:
        """As in a run: it asks for nothing."""

        def request(self) -> Request:
            return Request()

        def on_step_end(self, *_) -> None:
            pass

        def on_batch_end(self, *_) -> None:
            pass

    trial.DEVICES = ()  # it runs in a thread of its own, for which there is no such device
    torch.manual_seed(0)
    args = get_args_parser().parse_args([*TINY_MODEL, "--num_classes", "5", *options])
    # Frozen batch norm, as in training from ImageNet's weights, which are not at hand.
    args.backbone_weights, args.resume = "imagenet", "replaced"
    model, criterion, postprocessors = build_model(args)
    model.to(device)
    criterion.to(device)
    precision = Precision(args.amp, device)
    optimizer = build_optimizer(model, args)
    average = WeightAverage(model, args.ema) if args.ema else None
    batches = [batch(step, args.masks) for step in range(STEPS)]
    common = {"precision": precision, "hook": Hook()}
    train_one_epoch(model, criterion, batches[:2], optimizer, device, 0, 0.1, **common)
    counts.clear()  # what the first steps prepare
    stats = train_one_epoch(
        model, criterion, batches, optimizer, device, 0, 0.1,
        average=average, accumulate=args.accumulate, **common,
    )  # fmt: skip
    training = measure(counts, STEPS)
    counts.clear()
    panoptic = postprocessors.pop("panoptic", None)  # its scores need a data set
    evaluate(model, criterion, postprocessors, batches, None, device, **common)
    evaluation = measure(counts, STEPS)
    samples, targets = batches[0]
    with torch.no_grad(), precision.autocast():
        outputs = model(samples.to(device))
    sizes = torch.stack([target["size"] for target in targets])
    if panoptic is not None:
        panoptic(outputs, sizes, sizes)
    return {"loss": stats["loss"], "training": training, "evaluation": evaluation}


if __name__ == "__main__":
    torch.set_num_threads(1)
    names = sys.argv[1:]
    on_cpu = {
        name: run(options, torch.device("cpu"), Counts())["loss"]
        for name, options in VARIANTS.items()
        if name in names and "--dropout" in options
    }
    with pretend_cuda() as counts:
        for name in names:
            row = run(VARIANTS[name], torch.device("cuda", 0), counts)
            print(json.dumps({"name": name, "loss_on_cpu": on_cpu.get(name), **row}), flush=True)
