"""Networks: the generator (DeepLab-v2) and the discriminators."""

from fastass.models.config import ModelConfig
from fastass.models.deeplab import DeepLab, Output, ParameterGroup, build_deeplab
from fastass.models.discriminators import (
    FeatureDiscriminator,
    GlobalDiscriminator,
    PixelDiscriminator,
    SemanticDiscriminator,
)

__all__ = [
    "DeepLab",
    "FeatureDiscriminator",
    "GlobalDiscriminator",
    "ModelConfig",
    "Output",
    "ParameterGroup",
    "PixelDiscriminator",
    "SemanticDiscriminator",
    "build_deeplab",
]
