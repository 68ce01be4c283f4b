"""torch.compile for the parts of the detector that gain from it."""

import os
import shutil

from util.errors import UserError

from .detr import DETR
from .segmentation import DETRsegm


def check_compiler() -> None:
    """Raise a UserError unless there is the C++ compiler that torch.compile writes code for."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        raise UserError(
            f"--compile needs a C++ compiler, there is no {compiler}; install one or name yours "
            "with the environment variable CXX"
        )


def compile_model(model: DETR | DETRsegm) -> None:
    """Compile the backbone and the decoder in place; names in the state dict stay.

    Images come in hundreds of sizes, so heights and widths are symbols in the compiled code
    (dynamic=True): it is made once for training and once for evaluation, and again for a batch of
    one image. The encoder is left alone: most of its time goes to kernels compiled already.
    """
    detector = model.detr if isinstance(model, DETRsegm) else model
    for part in (detector.backbone[0], detector.transformer.decoder):
        # Without the option the gradient of a convolution is compiled for each size anew.
        part.compile(dynamic=True, options={"force_layout_optimization": True})
