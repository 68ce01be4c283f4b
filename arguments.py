"""Every option of main.py; checkpoints keep their values as args."""

import argparse

from datasets.layouts import add_data_options
from datasets.scoring import SCORERS
from models.option_values import (
    ATTENTION,
    BACKBONES,
    DEC_RPE_FORMAT,
    ENCODING_FORMATS,
    dec_rpe_argument,
    encoding_argument,
)
from training.log import MAX_EPOCHS
from training.start.options import (
    add_device_option,
    add_epoch_options,
    add_memory_options,
    add_output_options,
    add_process_options,
    add_start_options,
    add_trust_option,
)
from util.cli import TextType, number, whole_number
from util.schema import integer, list_of, text

# Further values in args: see datasets.annotations.categories and util.cli.options_given.
NOT_OPTIONS = {
    "category_ids": list_of(integer(), high=100_000),
    "given": list_of(text(100), high=1000),
}


def add_detector_options(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """Add the options of tools that take a checkpoint: what else `load_detector` needs.

    Args:
        device: False for tools that work on the CPU alone.
    """
    if device:
        add_device_option(parser)
    add_trust_option(parser)


def _parse_augmentation(text: str) -> object:
    from datasets.augmentation import parse_augmentation

    return parse_augmentation(text)


# fmt: off
def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the model, but for --masks, as a group of their own."""
    add = parser.add_argument_group("model").add_argument
    add("--backbone", default="resnet50", choices=BACKBONES, metavar="NAME",
        help="resnet10, resnet10_tiny (small, for CPUs) or one of torchvision's ResNets")
    add("--backbone_weights", default="imagenet", metavar="imagenet|none|PATH",
        help="first weights of the backbone: torchvision's ImageNet V1, a state dict on disk, or "
        "none to train all of it from scratch, batch norm included; not read with --resume")
    add("--dilation", action="store_true", help="no stride in the backbone's last stage (DC5)")
    add("--position_embedding", default="sine", choices=("sine", "learned"),
        help="absolute positions")
    add("--enc_layers", default=6, type=whole_number(0), help="encoder layers")
    add("--dec_layers", default=6, type=whole_number(1), help="decoder layers")
    add("--dim_feedforward", default=2048, type=whole_number(1), help="width of its blocks")
    add("--hidden_dim", default=256, type=whole_number(1), help="width of the transformer")
    add("--dropout", default=0.1, type=number(0), help="in the transformer")
    add("--nheads", default=8, type=whole_number(1), help="attention heads")
    add("--num_queries", default=100, type=whole_number(1), help="most objects of an image")
    add("--num_classes", default=None, type=whole_number(1),
        help="one more than the largest category id; if not given, that of the checkpoint, else "
        "what the training annotations need, or 250 for coco_panoptic")
    add("--pre_norm", action="store_true", help="normalise before each block, not after")
    add("--enc_rpe2d", default="", type=encoding_argument, metavar="RPE",
        help=f"relative position encoding of the encoder: {ENCODING_FORMATS}; or none")
    add("--dec_rpe", default="", type=dec_rpe_argument, metavar="RPE",
        help="relative positions of the decoder, whose queries then have reference boxes that each "
        f"layer refines: {DEC_RPE_FORMAT}; or none")
    add("--attention", default="auto", choices=ATTENTION,
        help="how the encoder computes attention: fused (relative positions looked up inside one "
        "kernel, little memory), sdpa (PyTorch's, with a term of the logits), math (logits written "
        "down), or auto (on CUDA fused where it should be faster or memory is scarce, else sdpa; "
        "on CPUs a way of its own in training, else sdpa)")


def get_args_parser() -> argparse.ArgumentParser:
    """Return a parser of all options, for use as a parent of another one."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.set_defaults(**dict.fromkeys(NOT_OPTIONS))

    group = parser.add_argument_group("optimisation")
    add = group.add_argument
    add("--lr", default=1e-4, type=number(0), help="learning rate of all but the backbone")
    add("--lr_backbone", default=1e-5, type=number(0),
        help="learning rate of the backbone; 0 freezes it")
    add("--batch_size", default=2, type=whole_number(1, 100_000),
        help="images per process and step")
    add("--accumulate", default=1, type=whole_number(1, 100_000), metavar="N",
        help="average the gradients of N batches for each step; docs/training.md says what differs "
        "from a --batch_size N times as large")
    add("--weight_decay", default=1e-4, type=number(0), help="of AdamW")
    add("--epochs", default=300, type=whole_number(1, MAX_EPOCHS), help="epochs to train in all")
    add("--lr_schedule", default="step", choices=("step", "cosine"),
        help="step: drops of lr to 1/10; cosine: half a cosine over --epochs, from lr to nearly 0")
    add("--lr_drop", default=200, type=whole_number(1, 10**9),
        help="epochs between drops of --lr_schedule step")
    add("--warmup", default=0, type=whole_number(0, 10**9), metavar="STEPS",
        help="steps at the start over which learning rates grow to their size; 0 for none")
    add("--clip_max_norm", default=0.1, type=number(0), help="largest gradient norm; 0 for any")
    add("--ema", default=0, type=number(0), metavar="DECAY",
        help="keep an exponential moving average of the weights, such as 0.9998, beside them in "
        "the checkpoint: it is what evaluations, detectors and --frozen_weights use; 0 for none")
    add("--early_stop", default=0, type=whole_number(0), metavar="N",
        help="end the run after N evaluations in a row that were not better than the best one (by "
        "PQ, else AP of masks, else AP of boxes); 0 for never")

    add_model_options(parser)

    group = parser.add_argument_group("loss")
    add = group.add_argument
    add("--no_aux_loss", dest="aux_loss", action="store_false",
        help="supervise the last decoder layer only")
    add("--set_cost_class", default=1, type=number(0), help="matching: weight of the class")
    add("--set_cost_bbox", default=5, type=number(0), help="matching: weight of the L1 distance")
    add("--set_cost_giou", default=2, type=number(0), help="matching: weight of generalised IoU")
    add("--bbox_loss_coef", default=5, type=number(0), help="weight of the L1 loss")
    add("--giou_loss_coef", default=2, type=number(0), help="weight of the generalised IoU loss")
    add("--eos_coef", default=0.1, type=number(0), help="weight of the class no-object")

    group = parser.add_argument_group("data")
    add = group.add_argument
    add("--dataset_file", default="coco", choices=("coco", "coco_panoptic"),
        help="kind of data set")
    add_data_options(group)
    add("--eval_split", default="val", choices=("val", "test"),
        help="which images --eval evaluates; training always evaluates the validation images")
    add("--remove_difficult", action="store_true",
        help="accepted for old scripts; COCO data has no difficult objects")
    add("--image_size", default=800, type=whole_number(32, 10_000),
        help="shorter side of validation images; sizes in training are in proportion")
    add("--augment", default="detr", type=TextType(_parse_augmentation),
        metavar="detr|flip|photometric|FILE.py:NAME",
        help="training images: flips, sizes and crops; only flips; colours; a transform of "
        "torchvision.transforms.v2 or a function that returns one, from a Python file. Parts are "
        "joined by +, such as detr+photometric+my_transforms.py:train")
    add("--group_by_shape", action="store_true",
        help="train on batches of images of similar aspect ratio: less padding, other batches")
    add("--skip_bad_images", action="store_true",
        help="training only: images that cannot be read or have invalid annotations are "
        "counted and replaced by the next good one; evaluation never skips, and without this "
        "option training stops at the first")
    add("--cache_images", action="store_true",
        help="decode each training image once and keep it in memory, about 3 bytes a pixel, in "
        "each loader process: for small data sets")
    add("--num_workers", default=4, type=whole_number(0, 1000), help="loader processes; 0 for none")

    group = parser.add_argument_group("run")
    add = group.add_argument
    add_output_options(group)
    add("--compile", action="store_true",
        help="torch.compile the backbone and the decoder, which takes a minute at the start; meant "
        "for GPUs, gains little on CPUs")
    add_memory_options(group)
    add_start_options(group, seed=42)
    add("--finetune", default="", metavar="PATH|URL",
        help="checkpoint to start a new run from: all that fits is loaded, rows of classes by "
        "their names; options of the model and of training that are not given are those of the "
        "checkpoint, but for --epochs, --lr_schedule, --lr_drop, --warmup and --ema, which suit a "
        "short run")
    add_epoch_options(group)
    add("--eval_table", action="store_true",
        help="print COCO's table after each evaluation, not a line and the table at the end")
    add("--coco_eval", default="faster", choices=SCORERS,
        help="who computes COCO's average precision: faster-coco-eval or pycocotools, which is "
        "slower and gives the same numbers")
    add_process_options(group)

    group = parser.add_argument_group("segmentation")
    add = group.add_argument
    add("--masks", action="store_true", help="a mask for each object")
    add("--frozen_weights", default=None, metavar="PATH|URL",
        help="checkpoint of a detector without masks, which stays as it is: only the mask head "
        "is trained")
    add("--mask_loss_coef", default=1, type=number(0), help="weight of the focal loss")
    add("--dice_loss_coef", default=1, type=number(0), help="weight of the dice loss")
    add("--coco_panoptic_path", metavar="DIR",
        help="folder with annotations/panoptic_*.json and the maps in panoptic_train2017 and "
        "panoptic_val2017, for --dataset_file coco_panoptic")
    return parser
# fmt: on
