"""Image classification: DeiT with image relative position encoding (iRPE), on timm's models.

Importing this registers the models with timm. Without timm it raises a UserError.
"""

from util.errors import UserError

OLDEST_TIMM = (1, 0, 24)  # whose blocks take the kind of their attention, and a mask
INSTALL = "pip install 'timm>=1.0.24'"

try:
    import timm
except ImportError as error:
    raise UserError(f"classification needs timm ({error}): {INSTALL}") from error
if tuple(int(n) if n.isdigit() else 0 for n in timm.__version__.split(".")[:3]) < OLDEST_TIMM:
    raise UserError(f"classification needs a newer timm than {timm.__version__}: {INSTALL}")

# After the check, because these need timm.
from .checkpoints import Loaded, load_weights  # noqa: E402
from .deit import DistilledVisionTransformer, VisionTransformer  # noqa: E402
from .zoo import MODELS  # noqa: E402

__all__ = ["MODELS", "DistilledVisionTransformer", "Loaded", "VisionTransformer", "load_weights"]
