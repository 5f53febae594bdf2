"""How the runs of ToyCity's tables are trained, and on which data.

As in the paper, a method starts from a trained network. There are no weights to download, so the
start is a training on the source, one per seed. The oracle may not see the source, so it starts on
its labelled target images. All methods take the same number of steps; the oracle takes more of them
on the target than any other.
"""

from fastass.config.presets import TOYCITY_SGD, preset
from fastass.config.text import as_flags

SHIFT = 1.0
"""Shift of the target's materials, from 0 to 1. 0.25 is the second setting of the results."""

START_STEPS = 600
"""Steps of the supervised start, which all methods of a seed except the oracle share."""

SOURCE_SIZE, TARGET_SIZE = "192x108", "192x96"

TRAINING = (
    f"--steps 1000 --batch 4 --source-size {SOURCE_SIZE} --target-size {TARGET_SIZE} "
    "--loss-gadv 0.02 --d-lr 1e-3 --eval-every 200 --save-every 250 --workers 1"
).split() + as_flags(TOYCITY_SGD)
"""Flags of each run, small enough for two CPU cores, with the paper's optimizer. λ_gadv and the
discriminators' learning rate are larger than the preset's, so that the adversarial terms matter
within 1000 steps."""

HELD_OUT_SEED = 1000
"""Seed of the source images that no run is trained on."""


def directory(domain: str, shift: float) -> str:
    """Where the data of a source domain (gta5 or synthia) lies."""
    return f"{preset('toycity').toycity.directory}_{domain}_shift{shift:g}"


def data_flags(domain: str, shift: float) -> list[str]:
    """Flags of `fastass train` that name the data, which is generated if it is missing."""
    from fastass.pipelines.datasets.classes import SYNTHIA_13, SYNTHIA_16
    from fastass.pipelines.toycity import generate

    toy, root = preset("toycity").toycity, directory(domain, shift)
    counts = (toy.source, toy.target, toy.seed, toy.val)
    generate(root, *counts, source_layout=domain, shift=shift)
    flags = ["--data-source", f"{root}/{domain}", "--data-target", f"{root}/cityscapes"]
    if domain == "synthia":
        flags += ["--data-classes", ",".join(SYNTHIA_16), "--data-report", ",".join(SYNTHIA_13)]
    return [*flags, "--start-steps", "0", *TRAINING]


def held_out_source(domain: str) -> str:
    """Source images that no run is trained on; generated if they are missing. Every shift has the
    same ones."""
    from fastass.pipelines.toycity import generate

    toy = preset("toycity").toycity
    root = f"{toy.directory}_{domain}_heldout"
    generate(root, toy.val, 1, HELD_OUT_SEED, 1, source_layout=domain)
    return f"{root}/{domain}"


def evaluate_source(run: str, data: str, to: str) -> tuple[str, ...]:
    """The words of `fastass` that measure a run's last checkpoint on held-out source images."""
    return ("eval", f"{run}/last", "--data", data, "--size", SOURCE_SIZE, "--json", to)
