"""Measure training steps of the detector by the ways to compute the encoder's attention.

    python benchmarks/training_step.py [--device cuda] [--json FILE]

A ResNet-50 DETR with rpe-2.0-product-ctx-1-k and random weights: the fused kernels, PyTorch's
attention with RPE as its bias, and no RPE. Images of 800 x 1333 pixels are a map of 25 x 42 = 1050
tokens, with a dilated backbone 50 x 84 = 4200. All variants of a map and precision take turns.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from detector_process import make_step
from measure import machine, medians, show, working, write_json

SIZE = (800, 1333)
MAPS = {"25x42": (2, []), "50x84": (1, ["--dilation"])}  # images, options of main.py
VARIANTS = {
    "fused": ["--attention", "fused"],
    "sdpa": ["--attention", "sdpa"],
    "without RPE": ["--enc_rpe2d", ""],
}
REFERENCE = "without RPE"


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--rounds", default=11, type=int, help="default: %(default)s")
    parser.add_argument("--maps", nargs="+", default=list(MAPS), choices=MAPS,
                        help="default: %(default)s")
    parser.add_argument("--amps", nargs="+", default=["bf16", "off"], help="default: %(default)s")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="default: %(default)s")
    parser.add_argument("--model_options", nargs=argparse.REMAINDER, default=[],
                        help="further options of main.py; the last option here")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def main(args: argparse.Namespace) -> None:
    device = torch.device(args.device)
    facts = machine(device)
    show(facts)
    results = []
    for name in args.maps:
        images, dilation = MAPS[name]
        for amp in args.amps:
            case = {"map": name, "batch_size": images, "amp": amp}
            print(f"\ntraining step, {images} image(s), map {name}, amp {amp}", flush=True)
            steps = {}
            for variant, options in VARIANTS.items():
                process = argparse.Namespace(
                    task="train", baseline=False, amp=amp, device=args.device, batch_size=images,
                    size=args.size, compile=False,
                    model_options=[*dilation, *args.model_options, *options],
                )  # fmt: skip
                steps[variant] = make_step(process)
            steps, errors = working(steps)
            for variant, error in errors.items():
                print(f"  {variant:12} {error}")
                results.append({**case, "variant": variant, "error": error})
            times = medians(steps, device, args.rounds)
            for variant, seconds in times.items():
                result = {**case, "variant": variant, "milliseconds": round(seconds * 1e3, 2)}
                said = ""
                if REFERENCE in times:
                    result["times_without_rpe"] = round(seconds / times[REFERENCE], 3)
                    said = f"{result['times_without_rpe']:6.2f} x {REFERENCE}"
                print(f"  {variant:12} {seconds * 1e3:9.2f} ms {said}")
                results.append(result)
            write_json(args.json, facts, results, done=False)
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
