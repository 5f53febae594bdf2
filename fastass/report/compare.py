"""Configurations side by side, and the paper's figures for a preset."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from fastass.config import paper
from fastass.config.presets import PRESETS
from fastass.config.schema import Config
from fastass.pipelines.datasets.classes import NAMES, SYNTHIA_13
from fastass.report.run_record import flat

_LONGEST = 100  # characters of a value


class Setting(NamedTuple):
    """One setting. texts: its value in each column, short. differs: whether the columns differ."""

    path: str
    texts: tuple[str, ...]
    differs: bool


class PaperRow(NamedTuple):
    """What the paper reports for a preset. classes: IoU, percent; {} where it has none."""

    where: str
    miou: float
    classes: dict[str, float]


def settings(columns: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """All settings of all columns, in the order of the first column that has them."""
    paths = list(dict.fromkeys(path for column in columns for path in column))
    rows = []
    for path in paths:
        texts = tuple(text(column.get(path)) for column in columns)
        rows.append(Setting(path, tuple(map(_short, texts)), len(set(texts)) > 1))
    return rows


def _short(words: str) -> str:
    """A long value, such as the configuration of a foreign backbone, by its beginning."""
    return words if len(words) <= _LONGEST else words[: _LONGEST - 1] + "…"


def text(value: Any) -> str:
    """A value as text for people."""
    if value is None or value in ([], (), ""):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def of_preset(name: Any) -> dict[str, Any] | None:
    """The settings of a preset by dotted path, None for an unknown name."""
    preset = PRESETS.get(str(name))
    return flat(asdict(preset.config.resolved())) if preset is not None else None


def paper_row(run: Mapping[str, Any]) -> PaperRow | None:
    """The paper's figures for a run's settings; None where the paper has none.

    A run with another method, number of labels, layout or number of classes is no longer the
    preset's row.
    """
    preset = PRESETS.get(str(run.get("preset")))
    if preset is None or preset.miou is None or not _on_its_data(run, preset.config):
        return None
    paper = preset.config.method, preset.config.labelled
    if run.get("mix") or (run.get("method"), run.get("labelled")) != paper:
        return None
    where, _, classes = preset.where.partition("; ")
    return PaperRow(where, preset.miou, _classes(classes, preset.miou))


def _on_its_data(run: Mapping[str, Any], config: Config) -> bool:
    """Whether nothing in a run's settings says that it read other data than the paper's."""
    source = str(config.preset).partition("_to_")[0]
    classes = len(config.data.classes) or config.model.num_classes
    return (
        run.get("data.source_layout", "auto") in ("auto", source)
        and run.get("data.target_layout", "auto") in ("auto", "cityscapes")
        and run.get("model.num_classes", classes) == classes
    )


def _classes(where: str, miou: float) -> dict[str, float]:
    table, _, row = where.partition(", ")
    if table not in ("Table 4", "Table 5"):
        return {}
    rows: Mapping[str, tuple[float, ...]]
    rows, names = (paper.TABLE_4, NAMES) if table == "Table 4" else (paper.TABLE_5, SYNTHIA_13)
    values = rows[row]
    # Rows of Table 5 may be another column's: then their mIoU is not this preset's.
    return dict(zip(names, values[:-1], strict=True)) if abs(values[-1] - miou) < 0.06 else {}
