"""COCO's average precision and panoptic quality."""
