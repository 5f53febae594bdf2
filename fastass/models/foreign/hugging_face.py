"""Backbones of Hugging Face's `transformers`: `--backbone hf:NAME` or `hf:FOLDER`.

NAME is one of the Hub's, FOLDER has the model's config.json. Any model that `AutoBackbone` knows
works: DINOv2, Swin, ConvNeXt, ResNet … The model's configuration is kept in the run's, so that a
trained network loads without the Hub. Dropout is turned off, as in the other backbones.
"""

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastass.errors import UserError
from fastass.models.backbone import Backbone
from fastass.models.config import ModelConfig
from fastass.models.foreign.norms import collect_batch_statistics
from fastass.pipelines.errors import one_line

PREFIX = "hf:"
DROPOUT = re.compile(r"dropout|drop_path|_drop_rate|^drop_rate|stochastic_depth")


class HuggingFaceBackbone(Backbone):
    """images [B,3,H,W] → (the last feature map, the one after three quarters of the stages).

    Images are resized to the nearest multiple of the patch size, so that the patches cover them.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        transformers = library()
        tree = json.loads(config.backbone_config or configuration(config.backbone))
        settings = transformers.AutoConfig.for_model(**tree)
        settings.num_channels = config.channels
        last = len(settings.stage_names) - 1
        several = config.heads == "multi"  # else an unused norm of stage 3 would get no gradient
        settings.out_indices = [round(0.75 * last), last] if several else [last]
        try:
            self.model: nn.Module = transformers.AutoBackbone.from_config(settings)
        except ValueError as error:
            raise UserError(f"model.backbone: {config.backbone}: {one_line(error, 300)}") from None
        except ImportError as error:  # of the model's module, or of a torchvision that is there
            raise UserError(
                f"model.backbone: {config.backbone}: transformers can't import it "
                f"({one_line(error.__cause__ or error, 300)}); if that is torchvision, install the "
                "one that belongs to your torch, or remove it"
            ) from None
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("mask_token" not in name)  # of pretraining; gets no gradient
        collect_batch_statistics(self.model, config.backbone)
        self.patch = _patch_size(settings)
        self.out_channels = self.model.channels[-1]
        self.aux_channels = self.model.channels[0] if several else None
        if config.checkpointing == "blocks":
            self.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        with torch.device("meta"), torch.no_grad():
            probe = transformers.AutoBackbone.from_config(settings).eval()
            side = 16 * max(self.patch, 4)
            self.output_stride = (
                side // probe(torch.empty(1, config.channels, side, side))[0][-1].shape[-1]
            )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.patch > 1:
            size = [max(1, round(side / self.patch)) * self.patch for side in images.shape[2:]]
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        maps = self.model(images).feature_maps
        *before, features = (m.contiguous(memory_format=torch.channels_last) for m in maps)
        return features, before[0] if before else None

    def layers(self) -> list[list[nn.Parameter]]:
        """By the first two numbers in the parameters' names: `encoder.stages.2.layers.5`."""
        layers: dict[tuple[str, ...], list[nn.Parameter]] = {}
        key: tuple[str, ...] = ()
        for name, parameter in self.model.named_parameters():
            numbers = tuple(part for part in name.split(".") if part.isdigit())[:2]
            key = numbers or key  # a final norm belongs to the last layer
            if parameter.requires_grad:
                layers.setdefault(key, []).append(parameter)
        return list(layers.values())


def library() -> Any:
    """The package `transformers`. UserError if it can't be imported."""
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(
            f"--backbone hf:…: transformers can't be imported ({error}); "
            "pip install 'transformers>=5'"
        ) from None


def configuration(backbone: str) -> str:
    """The model's configuration as JSON, from the Hub or from a folder. UserError without one."""
    name = backbone.removeprefix(PREFIX)
    try:
        settings = library().AutoConfig.from_pretrained(name, local_files_only=_is_local(name))
    except (OSError, ValueError) as error:
        raise UserError(f"model.backbone: {backbone}: {one_line(error, 300)}") from None
    if not getattr(settings, "stage_names", None):
        kind = settings.model_type
        raise UserError(f"model.backbone: {backbone}: transformers has no backbone for a {kind}")
    tree = {
        key: 0.0 if DROPOUT.search(key) and isinstance(value, float) else value
        for key, value in settings.to_dict().items()
    }
    return json.dumps(tree)


def with_configuration(model: ModelConfig) -> ModelConfig:
    """`model` with the configuration of a Hugging Face backbone filled in."""
    if not model.backbone.startswith(PREFIX) or model.backbone_config:
        return model
    return replace(model, backbone_config=configuration(model.backbone))


def pretrained_weights(backbone: str) -> tuple[str, Mapping[str, Tensor]]:
    """(where they come from, the backbone's tensors by their names in a DeepLab)."""
    name = backbone.removeprefix(PREFIX)
    try:
        settings = json.loads(configuration(backbone))
        empty = library().AutoBackbone.from_config(library().AutoConfig.for_model(**settings))
        # AutoBackbone.from_pretrained itself accepts no folder (transformers 5.24)
        model = type(empty).from_pretrained(name, local_files_only=_is_local(name))
    except (OSError, ValueError) as error:
        raise UserError(f"--init pretrained: {backbone}: {one_line(error, 300)}") from None
    return backbone, {f"backbone.model.{key}": t for key, t in model.state_dict().items()}


def _is_local(name: str) -> bool:
    return Path(name).is_dir()


def _patch_size(settings: Any) -> int:
    """Pixels of a patch of a plain vision transformer; 1 for networks with several stages."""
    patch = getattr(settings, "patch_size", 1) if not hasattr(settings, "depths") else 1
    return int(patch if isinstance(patch, int) else max(patch))
