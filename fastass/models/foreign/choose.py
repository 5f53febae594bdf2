"""The backbone that a name with a colon means: `hf:…`, `timm:…`, or a class of your own.

`--backbone my_package.my_module:MyBackbone` builds `MyBackbone(config)`. Only subclasses of
`fastass.models.backbone.Backbone` are called, so that a configuration file can't name any function
of any module. The module must be installed or on PYTHONPATH.
"""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastass.errors import UserError
from fastass.models.backbone import Backbone
from fastass.models.config import ModelConfig
from fastass.models.foreign import hugging_face, pytorch_image_models
from fastass.models.foreign.norms import collect_batch_statistics


def make_foreign_backbone(config: ModelConfig) -> Backbone:
    """The backbone. UserError if its package or class is missing, or has no such network."""
    if config.backbone.startswith(hugging_face.PREFIX):
        return hugging_face.HuggingFaceBackbone(config)
    if config.backbone.startswith(pytorch_image_models.PREFIX):
        return pytorch_image_models.TimmBackbone(config)
    backbone: Backbone = _own_class(config.backbone)(config)
    if config.heads == "multi" and backbone.aux_channels is None:
        raise UserError(
            f"model.heads: {config.backbone} has no aux_channels, so no second classifier; use "
            "heads=single"
        )
    if config.checkpointing == "blocks":
        raise UserError(
            f"model.checkpoint_activations: {config.backbone} would have to do it itself; leave it "
            "out"
        )
    collect_batch_statistics(backbone, config.backbone)
    return backbone


def pretrained_weights(backbone: str) -> tuple[str, Mapping[str, Tensor]]:
    """(where they come from, the backbone's tensors by their names in a DeepLab)."""
    if backbone.startswith(hugging_face.PREFIX):
        return hugging_face.pretrained_weights(backbone)
    if backbone.startswith(pytorch_image_models.PREFIX):
        return pytorch_image_models.pretrained_weights(backbone)
    raise UserError(
        f"--init pretrained: {backbone}: a backbone of your own loads its weights when it is "
        "built; use --init none"
    )


def _own_class(name: str) -> Any:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"model.backbone: {name}: {error}; is the module installed?") from None
    if not (isinstance(found, type) and issubclass(found, Backbone)):
        raise UserError(
            f"model.backbone: {name}: expected a subclass of fastass.models.backbone.Backbone"
        )
    return found
