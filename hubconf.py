"""Entry points of torch.hub: `torch.hub.load(REPOSITORY, "load_detector", "checkpoint.pth")`."""

from detector import load_detector

__all__ = ["load_detector"]

dependencies = ["torch", "torchvision", "numpy", "scipy", "pycocotools", "faster_coco_eval", "tqdm"]
