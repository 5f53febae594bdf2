"""Random weights under the names of published files, written out from the architectures."""

import torch
from torch import Tensor

from fastass.models.config import ModelConfig
from fastass.models.deeplab import DeepLab

State = dict[str, Tensor]
DEPTHS = {"resnet101": (3, 4, 23, 3), "resnet50": (3, 4, 6, 3), "resnet18": (2, 2, 2, 2)}
WIDTHS = (64, 128, 256, 512)
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 23, 25, 27)
VGG_CHANNELS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)


class Maker:
    """Random tensors of a scale that keeps activations near one through a deep network."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.state: State = {}

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def conv(self, name: str, out: int, into: int, kernel: int, bias: bool = False) -> None:
        scale = (2 / (into * kernel * kernel)) ** 0.5
        self.state[f"{name}.weight"] = self.random(out, into, kernel, kernel) * scale
        if bias:
            self.state[f"{name}.bias"] = self.random(out) * 0.1

    def norm(self, name: str, channels: int, scale: float = 1.0, counter: bool = False) -> None:
        self.state[f"{name}.weight"] = (1 + 0.1 * self.random(channels)) * scale
        self.state[f"{name}.bias"] = 0.1 * self.random(channels)
        self.state[f"{name}.running_mean"] = 0.1 * self.random(channels)
        self.state[f"{name}.running_var"] = 1 + 0.2 * torch.rand(channels, generator=self.generator)
        if counter:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def resnet(self, backbone: str, counter: bool = False) -> int:
        """Stem and four stages; the channels of the last."""
        self.conv("conv1", 64, 3, 7)
        self.norm("bn1", 64, counter=counter)
        into = 64
        for stage, (depth, width) in enumerate(zip(DEPTHS[backbone], WIDTHS, strict=True), 1):
            out = width if backbone == "resnet18" else 4 * width
            for block in range(depth):
                name = f"layer{stage}.{block}"
                if backbone == "resnet18":
                    convs = [(width, into, 3), (width, width, 3)]
                else:
                    convs = [(width, into, 1), (width, width, 3), (out, width, 1)]
                for i, shape in enumerate(convs, 1):
                    self.conv(f"{name}.conv{i}", *shape)
                    scale = 0.3 if i == len(convs) else 1.0
                    self.norm(f"{name}.bn{i}", shape[0], scale, counter)
                if block == 0 and out != into:
                    self.conv(f"{name}.downsample.0", out, into, 1)
                    self.norm(f"{name}.downsample.1", out, counter=counter)
                into = out
        return into

    def head(self, name: str, into: int, classes: int = 19) -> None:
        for branch in range(4):
            self.conv(f"{name}.conv2d_list.{branch}", classes, into, 3, bias=True)


def adaptsegnet(heads: str, backbone: str, classes: int = 19) -> State:
    maker = Maker()
    deep = maker.resnet(backbone)
    if heads == "multi":
        maker.head("layer5", deep // 2, classes)
        maker.head("layer6", deep, classes)
    else:
        maker.head("layer5", deep, classes)
    return maker.state


def adaptsegnet_vgg() -> State:
    maker = Maker()
    into = 3
    for index, out in zip(VGG_CONVS, VGG_CHANNELS, strict=True):
        maker.conv(f"features.{index}", out, into, 3, bias=True)
        into = out
    maker.conv("features.29", 1024, 512, 3, bias=True)
    maker.conv("features.31", 1024, 1024, 3, bias=True)
    maker.head("classifier", 1024)
    return maker.state


def torchvision_resnet(backbone: str) -> State:
    maker = Maker()
    deep = maker.resnet(backbone, counter=True)
    maker.state["fc.weight"], maker.state["fc.bias"] = maker.random(1000, deep), maker.random(1000)
    return maker.state


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def build(**options: object) -> DeepLab:
    """A network of zeros: random starts take time, and every test here replaces them."""
    with torch.device("meta"):
        model = DeepLab(ModelConfig(**options))  # type: ignore[arg-type]
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    return model.eval()


def resnet18(**options: object) -> DeepLab:
    return build(backbone="resnet18", **options)
