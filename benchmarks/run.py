"""All benchmarks, one after the other, each with its results in a file.

    python benchmarks/run.py [--device cuda] [--quick] [--json FOLDER] [--coco_path DIR]

Every ratio is of variants that took turns in one run. Let nothing else run meanwhile.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and sizes")
    parser.add_argument("--json", type=Path, metavar="FOLDER",
                        help="where to put result files; default: print only")
    parser.add_argument("--coco_path", default=os.environ.get("COCO_PATH"),
                        help="COCO images for the speed of loaders; left out without")
    # fmt: on
    return parser


def commands(args: argparse.Namespace) -> dict[str, list[str]]:
    """Script and options of each benchmark, by the name of its result file."""
    device = ["--device", args.device]
    quick = ["--rounds", "3"] if args.quick else []
    small = ["--maps", "25x34", "25x42"] if args.quick and args.device == "cpu" else []
    found = {
        "rpe_ops": ["rpe_ops.py", *device, *quick, *small],
        "encoder_layer": ["encoder_layer.py", *device, *quick, *small],
        "encoder_layer_bf16": ["encoder_layer.py", *device, "--amp", "bf16", *quick, *small],
        "detector": ["detector.py", *device, *(["--rounds", "2"] if args.quick else [])],
    }
    if args.device == "cpu":
        found["scoring"] = ["scoring.py", *(["--images", "1000"] if args.quick else [])]
        found["loader_memory"] = [
            "loader_memory.py", *(["--images", "12000"] if args.quick else [])
        ]  # fmt: skip
        if args.coco_path:
            found["loader_speed"] = ["loader_speed.py", "--coco_path", args.coco_path]
    return found


def main(args: argparse.Namespace) -> None:
    for name, (script, *options) in commands(args).items():
        print(f"\n==== {name} ====", flush=True)
        if args.json:
            options += ["--json", str(args.json / f"{name}_{args.device}.json")]
        subprocess.run([sys.executable, str(HERE / script), *options], check=True)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
