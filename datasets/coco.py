"""COCO detection splits as datasets of (image, target)."""

import argparse
import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from util.errors import UserError

from .annotations import load_annotations
from .images import ImageReader
from .segmentations import to_mask
from .transforms import make_coco_transforms, target_boxes

SPLITS = {
    "train": ("train2017", "annotations/instances_train2017.json"),
    "val": ("val2017", "annotations/instances_val2017.json"),
}


class CocoDetection(Dataset):
    """One split of a COCO-format data set.

    A sample is (image, target): the image (3, H, W) float32, normalised with ImageNet's mean and
    deviation; the target a dict of

        boxes     (n, 4) float32, (cx, cy, w, h) in [0, 1] of the image
        labels    (n,) int64, COCO category ids
        area      (n,) float32, as annotated, in pixels of the original image
        iscrowd   (n,) int64, all 0
        image_id  int64 scalar
        orig_size, size   (2,) int64, height and width before and after the transforms
        masks     (n, H, W) bool, only with return_masks

    Crowd annotations and empty boxes are left out; an image without objects is kept. The random
    choices of a sample depend on (seed, epoch, index) alone, whatever process makes it.

    Args:
        images: folder of the images, or that folder's name before ".zip".
        ann_file: instances_*.json.
        transforms: pipeline on (PIL image, target), see `datasets.transforms`.
        return_masks: also give the objects' masks.
        seed: of the random choices.
        num_classes: category ids must be below it; None allows any.

    Attributes:
        annotations: what ann_file says, in the order of image ids, as samples are.
    """

    def __init__(
        self,
        images: str | Path,
        ann_file: str | Path,
        transforms: v2.Transform,
        return_masks: bool = False,
        seed: int = 0,
        num_classes: int | None = None,
    ):
        self.annotations = load_annotations(ann_file, num_classes, return_masks)
        self.reader = ImageReader(images)
        self.transforms = transforms
        self.return_masks = return_masks
        self.seed = seed
        # In shared memory, so that loader workers that are already running see a new epoch.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        image = self.reader.read(self.annotations.file_name(index))
        target = self.target(index, *image.size)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self._sample_seed(index))
            return self.transforms(image, target)

    def _sample_seed(self, index: int) -> int:
        key = f"{self.seed} {int(self._epoch)} {index}".encode()
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "little", signed=True)

    def target(self, index: int, width: int, height: int) -> dict:
        """The target of a sample before its transforms: boxes are corners in pixels.

        Args:
            width, height: of the image in its file.
        """
        known = self.annotations
        objects = known.objects(index)
        target = {
            "boxes": target_boxes(known.boxes[objects], height, width),
            "labels": torch.from_numpy(known.labels[objects]),
            "area": torch.from_numpy(known.areas[objects]).float(),
            "iscrowd": torch.zeros(len(objects), dtype=torch.int64),
            "image_id": torch.tensor(int(known.image_ids[index])),
            "orig_size": torch.tensor([height, width]),
        }
        if self.return_masks:
            # As the file says; a file that does not say means the image as it is.
            size = int(known.heights[index]) or height, int(known.widths[index]) or width
            masks = [torch.from_numpy(to_mask(known.segmentation(n), *size)) for n in objects]
            stacked = torch.stack(masks) if masks else torch.zeros(0, height, width)
            target["masks"] = tv_tensors.Mask(stacked.bool())
        return target


def build(image_set: str, args: argparse.Namespace) -> CocoDetection:
    """The split "train" or "val" of args.coco_path.

    Raises:
        UserError: data missing, not COCO's, or with categories the model has no class for.
    """
    root = Path(args.coco_path)
    if not root.is_dir():
        raise UserError(f"--coco_path {root}: no such folder")
    folder, ann_file = SPLITS[image_set]
    return CocoDetection(
        root / folder,
        root / ann_file,
        make_coco_transforms(args.augment if image_set == "train" else "none", args.image_size),
        return_masks=args.masks,
        seed=args.seed,
        num_classes=args.num_classes,
    )
