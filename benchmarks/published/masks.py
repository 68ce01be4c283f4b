"""Masks the published way: of all queries at once."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.segmentation import DETRsegm, MaskHeadSmallConv


class PublishedMaskHead(MaskHeadSmallConv):
    def forward(
        self, x: Tensor, attention: Tensor, image: Tensor, finer: Sequence[Tensor]
    ) -> Tensor:
        """Compute `MaskHeadSmallConv.forward` on the image's maps repeated for each query."""
        x = torch.cat([x[image], attention], dim=1)
        x = F.relu(self.gn1(self.lay1(x)))
        x = F.relu(self.gn2(self.lay2(x)))
        for stage, features in enumerate(finer, start=1):
            of_image = self.get_submodule(f"adapter{stage}")(features)[image]
            x = of_image + F.interpolate(x, size=of_image.shape[-2:], mode="nearest")
            x = self.get_submodule(f"lay{stage + 2}")(x)
            x = F.relu(self.get_submodule(f"gn{stage + 2}")(x))
        return self.out_lay(x)[:, 0]


def use_published_head(model: DETRsegm) -> None:
    """Make the mask head compute the published way, in place; results stay the same."""
    model.mask_head.__class__ = PublishedMaskHead


def postprocess_all(
    results: list[dict], outputs: dict, orig_target_sizes: Tensor, target_sizes: Tensor
) -> None:
    """Compute `PostProcessSegm` with all masks of a batch upsampled as floats at once."""
    padded = target_sizes.amax(0).tolist()
    full = F.interpolate(outputs["pred_masks"], size=padded, mode="bilinear").sigmoid() > 0.5
    sizes = zip(target_sizes.tolist(), orig_target_sizes.tolist(), strict=True)
    for result, masks, (inside, wanted) in zip(results, full, sizes, strict=True):
        cut = masks[:, None, : inside[0], : inside[1]].float()
        result["masks"] = F.interpolate(cut, size=wanted)[:, 0].bool()
