"""Convolutional backbones: torchvision's ResNets, and small ones for runs on CPUs."""

import argparse
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from util.checkpoint import load_checkpoint
from util.errors import UserError
from util.misc import NestedTensor

from .conv_norm import FoldedBasicBlock, FoldedBottleneck, conv_norm, forget_folded
from .position_encoding import build_position_encoding
from .small_resnet import SMALL_RESNETS, build_small_resnet

FOLDED: dict[type[nn.Module], type[nn.Module]] = {
    BasicBlock: FoldedBasicBlock,
    Bottleneck: FoldedBottleneck,
}


class BackboneBase(nn.Module):
    """A ResNet whose feature maps are returned, without its classifier.

    Args:
        resnet: a module with torchvision's names: conv1, bn1, relu, maxpool, layer1..layer4.
        train_from_scratch: train all layers. Otherwise the stem and layer1 are frozen.
        train_backbone: False freezes layers 2-4 too.
        stage_channels: of the maps of layer1..layer4.
        return_interm_layers: return the maps of layer1..layer4 as "0".."3", not only layer4's as
            "0".
        gradient_checkpointing: keep only the input of each block for the backward pass.

    Attributes:
        num_channels: of layer4's map.
    """

    def __init__(
        self,
        resnet: nn.Module,
        train_from_scratch: bool,
        train_backbone: bool,
        stage_channels: list[int],
        return_interm_layers: bool,
        gradient_checkpointing: bool = False,
    ):
        super().__init__()
        self.stage_channels = stage_channels
        self.num_channels = stage_channels[-1]
        for module in resnet.modules():
            # The same parameters and names; only `forward` differs.
            module.__class__ = FOLDED.get(type(module), type(module))
        # Convolutions are fastest in the channels-last layout, on CPUs and GPUs.
        self.body = nn.Sequential(OrderedDict(resnet.named_children())).to(
            memory_format=torch.channels_last
        )

        trained = ("layer2", "layer3", "layer4") if train_backbone else ()
        for parameter_name, parameter in self.body.named_parameters():
            parameter.requires_grad_(train_from_scratch or parameter_name.startswith(trained))

        # Recomputing a block would update the running statistics of trained batch norm twice.
        self.gradient_checkpointing = gradient_checkpointing and not train_from_scratch
        names = [f"layer{i}" for i in range(1, 5)] if return_interm_layers else ["layer4"]
        self.output_names = {layer: str(i) for i, layer in enumerate(names)}

    def train(self, mode: bool = True) -> "BackboneBase":
        """Set training mode."""
        forget_folded(self)
        return super().train(mode)

    def forward(self, images: NestedTensor) -> dict[str, NestedTensor]:
        """Compute feature maps of images (B, 3, H, W).

        Returns:
            Maps (B, C, H / S, W / S) with masks, by name; S is 32 for layer4, or 16 with dilation
            and for resnet10_tiny.
        """
        if images.mask is None:
            raise ValueError("images need the mask of their padding")
        outputs = {}
        body: Any = self.body  # its children have torchvision's names
        x = images.tensors.contiguous(memory_format=torch.channels_last)
        x = body.maxpool(F.relu_(conv_norm(x, body.conv1, body.bn1)))
        for layer in ("layer1", "layer2", "layer3", "layer4"):
            for block in body.get_submodule(layer):
                if self.gradient_checkpointing and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if layer in self.output_names:
                outputs[self.output_names[layer]] = NestedTensor(x, _resize_mask(images.mask, x))
        return outputs


def _resize_mask(mask: Tensor, like: Tensor) -> Tensor:
    """Resize a mask (B, H, W) to the map `like` (B, C, h, w), as F.interpolate's "nearest" does.

    Computed in integers: in floating point, an exported graph could round differently elsewhere.
    """
    for axis in (1, 2):
        size = like.shape[axis + 1]
        source = torch.arange(size, device=mask.device) * mask.shape[axis] // size
        mask = mask.index_select(axis, source)
    return mask


class Backbone(BackboneBase):
    """A ResNet by name.

    Args:
        name: one of `option_values.BACKBONES`.
        train_from_scratch: with trainable batch norm. Otherwise batch norm is frozen: its
            statistics of a few images would be noise.
        dilation: dilated convolutions instead of the stride in layer4 (DC5).
        train_backbone, return_interm_layers, gradient_checkpointing: see `BackboneBase`.
    """

    def __init__(
        self,
        name: str,
        train_from_scratch: bool,
        train_backbone: bool,
        return_interm_layers: bool,
        dilation: bool,
        gradient_checkpointing: bool = False,
    ):
        norm_layer = nn.BatchNorm2d if train_from_scratch else FrozenBatchNorm2d
        if name in SMALL_RESNETS:
            resnet = build_small_resnet(name, norm_layer)
            stage_channels = list(SMALL_RESNETS[name].channels)
        else:
            resnet = torchvision.models.get_model(
                name,
                weights=None,
                norm_layer=norm_layer,
                replace_stride_with_dilation=[False, False, dilation],
            )
            stage_channels = [resnet.fc.in_features // scale for scale in (8, 4, 2, 1)]
            del resnet.avgpool, resnet.fc
        super().__init__(
            resnet,
            train_from_scratch,
            train_backbone,
            stage_channels,
            return_interm_layers,
            gradient_checkpointing,
        )


class Joiner(nn.Sequential):
    """The backbone, followed by the absolute position encoding (APE) of its last map.

    Attributes:
        num_channels: of the last map.
        stage_channels: of the maps of layer1..layer4.
    """

    num_channels: int
    stage_channels: list[int]

    def forward(self, images: NestedTensor) -> tuple[list[NestedTensor], Tensor]:
        """Compute features and positions of images (B, 3, H, W).

        Returns:
            Maps (B, C_i, H_i, W_i) with masks, from fine to coarse, and the APE of the last one,
            (B, hidden_dim, H_i, W_i), in its dtype.
        """
        features = list(self[0](images).values())
        return features, self[1](features[-1]).to(features[-1].tensors.dtype)


def build_backbone(args: argparse.Namespace) -> Joiner:
    """Build the backbone of `args` with its initial weights, and the APE.

    Initial weights are not loaded if a checkpoint replaces them (--resume, --frozen_weights,
    --finetune).
    """
    backbone = Backbone(
        args.backbone,
        train_from_scratch=args.backbone_weights == "none",
        train_backbone=args.lr_backbone > 0,
        return_interm_layers=args.masks,
        dilation=args.dilation,
        gradient_checkpointing=args.gradient_checkpointing,
    )
    replaced = args.resume or args.frozen_weights or args.finetune
    if args.backbone_weights != "none" and not replaced:
        _load_weights(backbone, args.backbone, args.backbone_weights, args.trust_checkpoint)
    joiner = Joiner(backbone, build_position_encoding(args))
    joiner.num_channels = backbone.num_channels
    joiner.stage_channels = backbone.stage_channels
    return joiner


def _load_weights(backbone: Backbone, name: str, source: str, trust: bool) -> None:
    """Load torchvision's ImageNet V1 weights, or a state_dict on disk, into the backbone."""
    state = _fetch_imagenet(name) if source == "imagenet" else load_checkpoint(source, trust)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"--backbone_weights {source}: not a state_dict of a {name}")
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    try:
        backbone.body.load_state_dict(state)
    except RuntimeError as error:
        first_problem = str(error).splitlines()[1].strip()
        raise UserError(
            f"--backbone_weights {source}: does not fit {name} ({first_problem[:200]})"
        ) from error


def _fetch_imagenet(name: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet V1 weights, from its own cache where they are there."""
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        return load_checkpoint(weights.url)
    except UserError as error:
        raise UserError(
            f"ImageNet weights of {name}: {error}; or give a copy with --backbone_weights PATH, or "
            "train from scratch with --backbone_weights none"
        ) from error
