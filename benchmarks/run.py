"""Run all benchmarks, one after the other.

    python benchmarks/run.py [--device cuda] [--quick] [--json FILE] [--coco_path DIR]

Every ratio is of variants that took turns in one run. Let nothing else run meanwhile.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="where to write all results; a folder gets a file for each benchmark; "
                        "default: print only")
    parser.add_argument("--coco_path", default=os.environ.get("COCO_PATH"),
                        help="COCO images for the speed of loaders; left out without")
    # fmt: on
    return parser


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Return script and options of each benchmark, by the name of its result file."""
    device = ["--device", args.device]
    quick = ["--rounds", "3"] if args.quick else []
    small = ["--maps", "25x34", "25x42"] if args.quick and args.device == "cpu" else []
    found = {
        "rpe_ops": ["rpe_ops.py", *device, *quick, *small],
        "attention": ["attention.py", *device, *quick, *small],
        "attention_bf16": ["attention.py", *device, "--dtype", "bfloat16", *quick, *small],
        "encoder_layer": ["encoder_layer.py", *device, *quick, *small],
        "encoder_layer_bf16": ["encoder_layer.py", *device, "--amp", "bf16", *quick, *small],
        "matching": ["matching.py", *device, *quick],
        "masks": ["masks.py", *device, *quick],
        "detector": ["whole_detector.py", *device, *(["--quick"] if args.quick else [])],
    }
    if args.quick and args.device != "cpu":
        # What has to be compiled, and float32, take the most time.
        del found["attention"], found["encoder_layer"]
    if args.device == "cpu":
        found["scoring"] = ["scoring.py", *(["--images", "1000"] if args.quick else [])]
        found["loader_memory"] = [
            "loader_memory.py", *(["--images", "12000"] if args.quick else [])
        ]  # fmt: skip
        if args.coco_path:
            found["loader_speed"] = ["loader_speed.py", "--coco_path", args.coco_path]
    return found


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        one_file = args.json is not None and args.json.suffix == ".json"
        folder = Path(scratch) if one_file else args.json
        found = {}
        for name, (script, *options) in commands(args).items():
            print(f"\n==== {name} ====", flush=True)
            if folder is not None:
                found[name] = folder / f"{name}_{args.device}.json"
                options += ["--json", str(found[name])]
            subprocess.run([sys.executable, str(HERE / script), *options], check=True)
        if one_file:
            everything = {name: json.loads(path.read_text()) for name, path in found.items()}
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(everything, indent=1) + "\n")
            print(f"\nall of it is in {args.json}")


if __name__ == "__main__":
    main(get_args_parser().parse_args())
