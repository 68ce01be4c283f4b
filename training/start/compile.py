"""--compile: torch.compile for the parts of the detector that gain from it."""

import os
import shutil

from models.detr import DETR
from models.segmentation import DETRsegm
from util.errors import UserError


def check_compiler() -> None:
    """Raise a UserError unless there is a C++ compiler, which torch.compile calls on CPUs."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"--compile needs a C++ compiler, there is no {compiler}; install one or name yours "
            "with the environment variable CXX"
        )


def compile_model(model: DETR | DETRsegm) -> None:
    """Compile the backbone and the decoder in place; the names in the state dict stay.

    Batches come in hundreds of sizes, so heights and widths are symbols in the compiled code
    (dynamic=True). It is compiled once for training, once for evaluation, and again for a batch of
    one image. The encoder is left as it is: it spends most of its time in kernels of its own.
    """
    detector = model.detr if isinstance(model, DETRsegm) else model
    for part in (detector.backbone[0], detector.transformer.decoder):
        # Without this option the gradient of a convolution is recompiled for each size.
        part.compile(dynamic=True, options={"force_layout_optimization": True})
