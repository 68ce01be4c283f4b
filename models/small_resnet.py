"""ResNets with one basic block per stage, for CPUs and quick experiments."""

from typing import NamedTuple

from torch import nn
from torchvision.models.resnet import BasicBlock


class SmallResNet(NamedTuple):
    """The sizes of a small ResNet.

    Attributes:
        channels: of each stage; the stem has as many as the first.
        strides: of each stage, after the stem's stride of 4.
    """

    channels: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]


SMALL_RESNETS = {
    # ResNet-18 with half of its blocks: 4.9 million parameters, a map at stride 32.
    "resnet10": SmallResNet((64, 128, 256, 512), (1, 2, 2, 2)),
    # 0.3 million parameters and a map at stride 16, so that images of 96 pixels have 6 x 6 tokens.
    "resnet10_tiny": SmallResNet((16, 32, 64, 128), (1, 2, 2, 1)),
}


def build_small_resnet(name: str, norm_layer: type[nn.Module]) -> nn.Module:
    """Build one of SMALL_RESNETS with torchvision's module names and initialisation.

    Args:
        norm_layer: called with the number of channels.
    """
    channels, strides = SMALL_RESNETS[name]
    width = channels[0]
    resnet = nn.Module()
    resnet.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
    resnet.bn1 = norm_layer(width)
    resnet.relu = nn.ReLU(inplace=True)
    resnet.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    for number, (out, stride) in enumerate(zip(channels, strides, strict=True), start=1):
        shortcut = None
        if stride > 1 or out != width:
            shortcut = nn.Sequential(
                nn.Conv2d(width, out, kernel_size=1, stride=stride, bias=False), norm_layer(out)
            )
        block = BasicBlock(width, out, stride, shortcut, norm_layer=norm_layer)
        resnet.add_module(f"layer{number}", nn.Sequential(block))
        width = out
    for module in resnet.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return resnet
