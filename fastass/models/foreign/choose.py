"""The adapter of another package's backbone, by the prefix of its name."""

from collections.abc import Mapping

from torch import Tensor

from fastass.models.backbone import Backbone
from fastass.models.config import ModelConfig
from fastass.models.foreign import hugging_face, pytorch_image_models


def make_foreign_backbone(config: ModelConfig) -> Backbone:
    """The backbone with random weights. UserError if its package is missing or has none."""
    if config.backbone.startswith(pytorch_image_models.PREFIX):
        return pytorch_image_models.TimmBackbone(config)
    return hugging_face.HuggingFaceBackbone(config)


def pretrained_weights(backbone: str) -> tuple[str, Mapping[str, Tensor]]:
    """(where they come from, the backbone's tensors by their names in a DeepLab)."""
    if backbone.startswith(pytorch_image_models.PREFIX):
        return pytorch_image_models.pretrained_weights(backbone)
    return hugging_face.pretrained_weights(backbone)
