"""What the classes of a checkpoint are called."""

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

# COCO's own classes, by category id; checkpoints of the published code do not name them.
COCO_NAMES = {
    i: name
    for i, name in enumerate(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    if name not in ("__background__", "N/A")
}


def class_names(checkpoint: dict, num_classes: int) -> dict[int, str]:
    """By label; COCO's, where the checkpoint names none and has as many classes."""
    names = checkpoint.get("classes")
    if isinstance(names, dict):
        return names
    return COCO_NAMES if num_classes in (91, 250) else {}
