"""Annotation files, read, checked and packed into arrays."""

from .categories import set_classes
from .instances import load_annotations, read_annotations
from .panoptic import (
    PanopticAnnotations,
    load_panoptic_annotations,
    read_panoptic_annotations,
)
from .store import AnnotatedImages, Annotations

__all__ = [
    "AnnotatedImages",
    "Annotations",
    "PanopticAnnotations",
    "load_annotations",
    "load_panoptic_annotations",
    "read_annotations",
    "read_panoptic_annotations",
    "set_classes",
]
