"""The README's table of speeds on a CPU, printed beside a measurement of the same step."""

from typing import NamedTuple

from fastass.bench.step.compare import Row
from fastass.config.schema import Config

MACHINE = "two cores of AMD EPYC, torch 2.13"


class Published(NamedTuple):
    """A row of the README: lowest and highest speed, and peak memory, against the baseline."""

    what: str
    slowest: float
    fastest: float
    memory: float | None
    """None where it was not measured."""

    @property
    def speed(self) -> str:
        """`1.13 to 1.33×`; a single number if there is one machine."""
        high = f"{self.fastest:.3g}×"
        return high if self.slowest == self.fastest else f"{self.slowest:.3g} to {high}"


# The step at 512×256, batch 1, frozen norm, streamed backward: (backbone, amp) → row.
STEPS = {
    ("resnet101", False): Published("ResNet-101, one step in fp32", 1.13, 1.33, 0.55),
    ("resnet101", True): Published("ResNet-101, one step with --amp", 1.83, 1.83, None),
    ("resnet50", False): Published("ResNet-50, one step in fp32", 1.41, 1.41, 0.57),
}
TOYCITY = Published("ToyCity, from files to weights", 2.42, 2.42, 0.34)


def published_step(config: Config) -> Published | None:
    """The row for this step, None if the README has no step like it."""
    data = config.data
    same = (
        (data.source_size, data.target_size) == ((512, 256), (512, 256))
        and (config.batch, config.accumulate) == (1, 1)
        and (config.model.norm, config.backward) == ("frozen", "streamed")
    )
    return STEPS.get((config.model.backbone, config.runtime.amp)) if same else None


def beside(row: Published, ours: Row) -> str:
    """One line: the README's figures, and those just measured."""
    memory = "" if row.memory is None else f", memory {row.memory:.2f}×"
    return (
        f"{row.what}, against the AdaptSegNet baseline. README ({MACHINE}): speed {row.speed}"
        f"{memory}. Here: speed {ours.speedup:.2f}×, memory {ours.memory_ratio:.2f}×"
    )
