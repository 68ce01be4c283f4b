"""Entry points of torch.hub: `torch.hub.load(REPOSITORY, "load_detector", "checkpoint.pth")`."""

# Not from `detector`: the folders `datasets` and `models` would take these names from others.
from detr_irpe import load_detector

__all__ = ["load_detector"]

dependencies = [
    "torch", "torchvision", "numpy", "scipy", "PIL", "matplotlib", "pycocotools",
    "faster_coco_eval", "tqdm",
]  # fmt: skip
