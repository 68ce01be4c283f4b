"""Try the fused kernels on each device: `python -m rpe_ops.attention [--enc_rpe2d RPE]`.

It prints a line for each dtype, without and with dropout: the largest difference from the formula,
as a share of the tensor's largest value, and ok or FAILED. Exit code 1 after a failure.
"""

import argparse
import sys
from collections.abc import Iterator

import torch

from .backends import fused, fused_check, trial
from .enc_rpe2d import parse_rpe_string, rpe_argument


def lines_of(device: torch.device, rpe: str, head_dim: int) -> Iterator[str]:
    """Yield what each trial on a device found."""
    config = parse_rpe_string(rpe)
    where = trial.describe(device)
    reason = fused.why_not_device(device) or fused.why_not_config(config, head_dim)
    if reason is not None:
        yield f"{where}: not used: {reason}"
        return
    for dtype in fused.DTYPES:
        for kind in trial.kinds(config, head_dim, device, dtype):
            outcome = fused_check.run(kind)
            said = f"ok, difference {outcome.difference:.1e}"
            if outcome.problem is not None:
                said = f"FAILED, {outcome.problem}"
            yield f"{where}: {kind}: {said}, {outcome.seconds:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--enc_rpe2d", default="rpe-2.0-product-ctx-1-k", type=rpe_argument,
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--head_dim", type=int, default=32, help="default: %(default)s")
    args = parser.parse_args()
    devices = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    failed = False
    for device in devices or [torch.device("cpu")]:
        for line in lines_of(device, args.enc_rpe2d, args.head_dim):
            print(line, flush=True)
            failed |= ": FAILED" in line
    sys.exit(failed)


if __name__ == "__main__":
    main()
