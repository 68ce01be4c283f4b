"""Measure how long every command takes to print its --help, beside Python that does nothing.

    python benchmarks/commands/help_time.py [--rounds N] [--json FILE]

That is how long a user waits until a command says that an option is unknown, too. Most of it is
imports, so `import torch` is measured beside them. All take turns.
"""

import argparse
import subprocess
import sys
from pathlib import Path

# The repository before this folder's parent, which has measure.py: both have an rpe_ops.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from measure import machine, medians, show, working, write_json

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("", "tools", "classification", "classification/tools")
NOTHING = "python -c pass"
MODULES = ("rpe_ops", "detr_irpe.main", "detr_irpe.tools.predict")


def get_args_parser() -> argparse.ArgumentParser:
    # fmt: off
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default=5, type=int, help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    # fmt: on
    return parser


def commands() -> dict[str, list[str]]:
    """Return the arguments of Python for each command line, the one to compare with first."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    files.remove(ROOT / "setup.py")  # pip's, not a user's
    scripts = [
        path.relative_to(ROOT) for path in files if '__name__ == "__main__":' in path.read_text()
    ]
    return {
        NOTHING: ["-c", "pass"],
        "python -c 'import torch'": ["-c", "import torch"],
        **{f"python -m {module} --help": ["-m", module, "--help"] for module in MODULES},
        **{f"python {script} --help": [str(script), "--help"] for script in scripts},
    }


def start(arguments: list[str]) -> None:
    """Run Python from the repository; raise an error with its last line if it fails."""
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.rstrip().rpartition("\n")[2])


def main(args: argparse.Namespace) -> None:
    device = torch.device("cpu")
    facts = machine(device)
    show(facts)
    actions = {name: lambda given=given: start(given) for name, given in commands().items()}
    actions, errors = working(actions)
    results: list[dict] = [{"variant": name, "error": error} for name, error in errors.items()]
    for name, error in errors.items():
        print(f"{name:{max(map(len, errors))}} {error}")
    times = medians(actions, device, args.rounds)
    for name, seconds in times.items():
        ratio = seconds / times[NOTHING]
        print(f"{name:{max(map(len, times))}} {seconds * 1e3:8.0f} ms {ratio:6.1f} x {NOTHING}")
        results.append(
            {
                "variant": name,
                "milliseconds": round(seconds * 1e3),
                "times_nothing": round(ratio, 1),
            }
        )
    write_json(args.json, facts, results)


if __name__ == "__main__":
    main(get_args_parser().parse_args())
