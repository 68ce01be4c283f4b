"""COCO's average precision and panoptic quality."""

SCORERS = ("faster", "pycocotools")  # of --coco_eval, see `coco`
