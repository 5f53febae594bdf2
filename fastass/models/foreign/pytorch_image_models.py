"""Backbones of timm (PyTorch image models): `--backbone timm:NAME`.

NAME is one of `timm.list_models()`, with or without the name of its weights: `convnext_tiny`,
`convnext_tiny.fb_in1k`. The network is built from its name, so a trained one loads without a
network connection. Dropout is turned off, as in the other backbones.
"""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.errors import UserError
from fastass.models.backbone import Backbone
from fastass.models.config import ModelConfig
from fastass.models.foreign.norms import collect_batch_statistics
from fastass.pipelines.errors import one_line

PREFIX = "timm:"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
# How timm's classes are told that images have other sizes than in pretraining; the first that a
# class accepts. Networks of convolutions accept none and need none.
ANY_SIZE: tuple[dict[str, bool], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


class TimmBackbone(Backbone):
    """images [B,3,H,W] → (the last feature map, the one after three quarters of the stages).

    Images of a network with patches are resized to the nearest multiple of their size.
    """

    def __init__(self, config: ModelConfig, *, pretrained: bool = False) -> None:
        super().__init__()
        model = create(config.backbone, pretrained=pretrained, channels=config.channels)
        self.model: nn.Module = model
        patch = _patch_size(model)
        side = 64 if patch < 8 else 4 * patch  # of the image that the network is tried with
        image = torch.zeros(1, config.channels, side, side)
        maps = _try(model, config.backbone, image)
        last = len(maps) - 1
        several = config.heads == "multi"
        self.levels = [round(0.75 * last), last] if several else [last]
        self.out_channels = maps[-1].shape[1]
        self.aux_channels = maps[self.levels[0]].shape[1] if several else None
        self.output_stride = side // maps[-1].shape[-1]
        self.patch = side // maps[0].shape[-1] if patch > 1 else 1
        model.prune_intermediate_layers(self.levels, prune_norm=False, prune_head=True)
        _freeze_unused(model, self.levels, image)
        _no_dropout(model)
        collect_batch_statistics(model, config.backbone)
        if config.checkpointing == "blocks":
            model.set_grad_checkpointing(True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.patch > 1:
            size = [max(1, round(side / self.patch)) * self.patch for side in images.shape[2:]]
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        maps = feature_maps(self.model, images, self.levels)
        *before, features = (m.contiguous(memory_format=torch.channels_last) for m in maps)
        return features, before[0] if before else None

    def layers(self) -> list[list[nn.Parameter]]:
        """As timm groups them for layer-wise rates, from the images to the features."""
        model: Any = self.model
        groups = library().models.group_parameters(model, model.group_matcher(coarse=False))
        layers = [
            [p for name in groups[key] if (p := model.get_parameter(name)).requires_grad]
            for key in sorted(groups)
        ]
        return [layer for layer in layers if layer]


def library() -> Any:
    """The package `timm`. UserError if it can't be imported."""
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # torchvision of another torch: RuntimeError
        raise UserError(
            f"--backbone timm:…: timm can't be imported ({one_line(error, 300)}); pip install "
            "'timm>=1.0.31', with the torchvision that belongs to your torch"
        ) from None


def create(backbone: str, *, pretrained: bool = False, channels: int = 3) -> Any:
    """timm's network for images of any size. UserError if timm has none of this name."""
    timm, name = library(), backbone.removeprefix(PREFIX)
    if ":" in name or name.split(".")[0] not in timm.list_models():
        raise UserError(
            f"model.backbone: {backbone}: timm {timm.__version__} has no model of this name; "
            "timm.list_models() lists them"
        )
    for sizes in ANY_SIZE:
        try:
            return timm.create_model(name, pretrained=pretrained, in_chans=channels, **sizes)
        except TypeError:  # an unknown argument
            if not sizes:
                raise
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"model.backbone: {backbone}: {one_line(error, 300)}") from None
    raise AssertionError(name)


def feature_maps(model: Any, images: Tensor, levels: list[int] | None) -> list[Tensor]:
    """The maps [B,N,h,w] of these levels, the last one normalised; None: of all levels."""
    maps: list[Tensor] = model.forward_intermediates(
        images, indices=levels, norm=True, intermediates_only=True, output_fmt="NCHW"
    )
    return maps


def pretrained_weights(backbone: str) -> tuple[str, Mapping[str, Tensor]]:
    """(where they come from, the backbone's tensors by their names in a DeepLab).

    UserError for weights that need another normalisation than ImageNet's.
    """
    settings = create(backbone).pretrained_cfg
    other = {key: settings.get(key) for key in IMAGENET if settings.get(key) != IMAGENET[key]}
    if other:
        raise UserError(
            f"--init pretrained: {backbone}: its weights need images with "
            + " and ".join(f"{key} {value}" for key, value in other.items())
            + ", which --data-normalize can't do; choose weights with ImageNet's"
        )
    config = ModelConfig(backbone=backbone)
    network = TimmBackbone(config, pretrained=True)
    return backbone, {f"backbone.{key}": t for key, t in network.state_dict().items()}


def _patch_size(model: Any) -> int:
    """Of a transformer's patches; 1 for networks that take images of any size."""
    if not hasattr(model, "patch_embed"):
        return 1
    patch = getattr(model.patch_embed, "patch_size", 4)
    return int(patch if isinstance(patch, int) else max(patch))


def _try(model: Any, backbone: str, image: Tensor) -> list[Tensor]:
    """The maps of all levels of an image. UserError if there are none."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            maps = feature_maps(model, image, None)
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"model.backbone: {backbone}: timm's network gives no feature maps of images of any "
            f"size ({one_line(error, 300)}); choose another one"
        ) from None
    model.train(training)
    return maps


def _freeze_unused(model: nn.Module, levels: list[int], image: Tensor) -> None:
    """Parameters that no feature map depends on train nothing, and other ranks would wait for
    their gradients."""
    training = model.training
    model.eval()
    maps = feature_maps(model, image, levels)
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = sum(m.sum() for m in maps)
    assert isinstance(total, Tensor)
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
    model.train(training)


def _no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        if hasattr(module, "drop_prob"):  # of stochastic depth
            module.__dict__["drop_prob"] = 0.0
