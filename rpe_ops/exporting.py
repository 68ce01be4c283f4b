"""Is this code being written down for another runtime?"""

import torch


def is_exporting() -> bool:
    """Whether torch.export, or torch.onnx.export on top of it, is tracing.

    Sizes are symbols then, nothing may be kept from one call to the next, and the graph is to run
    where there are standard operators alone.
    """
    if hasattr(torch.compiler, "is_exporting"):  # torch 2.7
        return torch.compiler.is_exporting()
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
