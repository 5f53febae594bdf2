"""torchvision's ImageNet weights, downloaded once into torch.hub's cache."""

from collections.abc import Mapping
from pathlib import PurePosixPath

import torch
from torch import Tensor

from fastass.models.weights.files import WeightsError

# ResNet…_Weights.IMAGENET1K_V1 and VGG16_Weights.IMAGENET1K_V1; the name ends in the file's hash.
FILES = {
    "resnet101": "resnet101-63fe2227.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet18": "resnet18-f37072fd.pth",
    "vgg16": "vgg16-397923af.pth",
}
URL = "https://download.pytorch.org/models/"


def imagenet_weights(backbone: str) -> tuple[str, Mapping[str, Tensor]]:
    """The file's address and its tensors.

    Raises WeightsError for a backbone that has none, where there is no network, and for a file
    whose hash is wrong.
    """
    if backbone not in FILES:
        raise WeightsError(
            f"--init imagenet: torchvision has no weights for backbone {backbone}; "
            f"it has them for {', '.join(FILES)}"
        )
    url = URL + FILES[backbone]
    try:
        tensors: Mapping[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError, EOFError) as error:
        reason = str(getattr(error, "reason", error)).splitlines() or [type(error).__name__]
        raise WeightsError(
            f"--init imagenet: {url} can't be loaded ({reason[0]}); download it where there is a "
            f"network and give --init {PurePosixPath(url).name}"
        ) from None
    return url, tensors
