"""DETR with image relative position encoding, under a name that no other project has.

All modules of the project are submodules: `detr_irpe.models`, `detr_irpe.datasets`, ... In a clone
their files lie beside this folder, under the names that DETR's users know, and `sources` imports
them from there; an installed package has them in its own folder.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if not (Path(__file__).parent / "detector.py").is_file():  # this is a clone
    from detr_irpe import sources

    sources.import_from_clone()

from detr_irpe.util import VERSION as __version__
from detr_irpe.util.errors import UserError

if TYPE_CHECKING:
    from detr_irpe.datasets.image_inputs import ImageInput
    from detr_irpe.detector import Detector, load_detector

__all__ = ["Detector", "ImageInput", "UserError", "__version__", "load_detector"]


def __getattr__(name: str) -> object:
    """Import what needs PyTorch when it is asked for: commands answer --help without."""
    if name in ("Detector", "load_detector"):
        from detr_irpe import detector

        return getattr(detector, name)
    if name == "ImageInput":
        from detr_irpe.datasets.image_inputs import ImageInput

        return ImageInput
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
