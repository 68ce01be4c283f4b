"""`python -m rpe_ops [--check]`: print which kernels are active, and why others are not."""

import argparse
import signal
import sys


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rpe_ops", description="Show active kernels.")
    parser.add_argument(
        "--check",
        action="store_true",
        help="compare all of them with PyTorch's operators; exit code 1 if one is wrong",
    )
    args = parser.parse_args()

    from .status import check, status  # not above: it imports PyTorch, which takes seconds

    print(status(), flush=True)
    if args.check and not check():
        sys.exit(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to save: Ctrl-C needs no traceback
    main()
