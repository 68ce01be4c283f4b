"""Annotation files, read, checked and packed into arrays."""

from .categories import Classes
from .instances import load_annotations, read_annotations
from .panoptic import PanopticAnnotations, load_panoptic_annotations, read_panoptic_annotations
from .store import AnnotatedImages, Annotations

__all__ = [
    "AnnotatedImages",
    "Annotations",
    "Classes",
    "PanopticAnnotations",
    "load_annotations",
    "load_panoptic_annotations",
    "read_annotations",
    "read_panoptic_annotations",
]
