"""Presets by name: `toycity`, and the rows of the paper's tables.

A table row's name is <source>_to_cityscapes_<method>_<labelled images>, for example
`gta5_to_cityscapes_csa_500`: Table 1, row 500, column GA+CSA.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from fastass.config import paper
from fastass.config.schema import (
    Config,
    DataConfig,
    DiscriminatorConfig,
    LossConfig,
    OptimConfig,
)
from fastass.config.text import neighbours
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.pipelines.datasets.classes import SYNTHIA_13, SYNTHIA_16

TOYCITY_SGD = {
    "optim.optimizer": "sgd",
    "optim.lr": 0.1,
    "optim.head_lr": 0.1,
    "optim.vector_lr": 1.0,
    "optim.momentum": 0.9,
}
"""The paper's optimizer for `toycity`, in its tables and beside the AdaptSegNet baseline. From
random weights: a higher rate than for fine-tuning, a lower one for the head."""


@dataclass(frozen=True)
class Preset:
    """A configuration, its place in the paper and the mIoU in percent reported there."""

    config: Config
    where: str
    miou: float | None


def _toycity() -> Preset:
    config = Config(
        preset="toycity",
        # The best method of docs/results.
        method="joint",
        mix=True,
        labelled=20,
        steps=500,
        start_steps=300,
        batch=4,
        backward="concurrent",
        eval_every=250,
        save_every=100,
        log_every=10,
        model=ModelConfig(backbone="tiny"),
        data=DataConfig(
            source_size=(256, 144), target_size=(256, 128), normalize="imagenet", workers=2
        ),
        discriminator=DiscriminatorConfig(width=16, hidden=256),
        # From random weights Muon gets further than SGD in the same steps (docs/results).
        optim=OptimConfig(
            optimizer="muon",
            lr=0.025,
            head_lr=1.0,
            vector_lr=0.1,
            momentum=0.8,
            d_lr=2e-4,
            base_batch=4,
        ),
    )
    return Preset(config, "built-in data, two CPU cores", None)


def _row(source: str, table: str, method: str, labelled: int, miou: float) -> Preset:
    """Section 4 of the paper, with AdaptSegNet's values where the paper gives none."""
    synthia = source == "synthia"
    config = Config(
        preset=f"{source}_to_cityscapes_{method.replace('ga+', '')}_{labelled}",
        method=method,  # type: ignore[arg-type]
        labelled=labelled,
        # Row 0 of Tables 1 and 3 is AdaptSegNet's multi-level model (Tsai et al.).
        model=ModelConfig(heads="multi", aspp_branches=2) if labelled == 0 else ModelConfig(),
        loss=LossConfig(push="target" if labelled == 0 else "source"),
        data=DataConfig(
            source_size=(1280, 760) if synthia else (1280, 720),
            classes=SYNTHIA_16 if synthia else (),
            report=SYNTHIA_13 if synthia else (),
        ),
        optim=OptimConfig(schedule_steps=250_000),
    )
    column = method.upper().replace("ORACLE", "Oracle")
    where = f"{table}, row {labelled}, {column}{_per_class(table, method, labelled)}"
    return Preset(config, where, miou)


def _per_class(table: str, method: str, labelled: int) -> str:
    """The row of Table 4 or 5 with the same model's IoU per class, where there is one."""
    number, rows = ("4", paper.TABLE_4) if table == "Table 1" else ("5", paper.TABLE_5)
    ours = "ga" if number == "5" and labelled in paper.TABLE_5_GA else "ga+csa"
    row = {"oracle": f"oracle {labelled}", ours: f"ours {labelled}"}.get(method, "")
    return f"; Table {number}, {row}" if row in rows else ""


def _rows() -> Iterator[Preset]:
    tables = (
        ("gta5", "Table 1", paper.TABLE_1, paper.TABLE_1_METHODS),
        ("synthia", "Table 3", paper.TABLE_3, paper.TABLE_3_METHODS),
    )
    for source, table, rows, methods in tables:
        for labelled, values in rows.items():
            for method, miou in zip(methods, values, strict=True):
                if miou is not None:
                    yield _row(source, table, method, labelled, miou)


PRESETS = {preset.config.preset: preset for preset in (_toycity(), *_rows())}


def preset(name: str) -> Config:
    """The configuration of a preset. UserError lists its neighbours for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; {neighbours(name, list(PRESETS))}")
    return PRESETS[name].config
