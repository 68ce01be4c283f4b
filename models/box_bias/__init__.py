"""Reference boxes of the decoder's queries, and attention that depends on them (--dec_rpe)."""

from .bias import BoxBias, attend_around_boxes
from .references import ReferenceBoxes

__all__ = ["BoxBias", "ReferenceBoxes", "attend_around_boxes"]
