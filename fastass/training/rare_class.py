"""The order of samples under `--rare-class`, from the class histograms of the labels."""

from collections.abc import Mapping, Sequence

from fastass.errors import DataError, UserError
from fastass.method.adaptation import MethodSpec
from fastass.pipelines.class_histograms.histograms import ClassHistograms, class_histograms
from fastass.pipelines.loaders.rare_class import RareClassOrder, rare_class_order
from fastass.pipelines.packed.dataset import AnyDataset
from fastass.tracking.progress import Reporter
from fastass.training.data import TrainingData


def rare_class_orders(
    data: TrainingData, spec: MethodSpec, reporter: Reporter
) -> Mapping[str, RareClassOrder]:
    """Stream → its order, for the streams that rare-class sampling applies to.

    Reports one line per stream. Raises DataError for a damaged label (unless bad samples are
    skipped: they are not drawn) and for labels without a class, UserError if the method reads none
    of the images.
    """
    temperature = data.config.rare_class
    if temperature is None:
        return {}
    on = data.config.rare_class_on
    orders = {}
    if spec.source and on in ("source", "both"):
        assert data.source is not None
        orders["source"] = _order(data, data.source, None, "source", temperature, reporter)
    if spec.labelled and on in ("labelled", "both"):
        orders["labelled"] = _order(
            data, data.target, data.labelled, "labelled target", temperature, reporter
        )
    if not orders:
        raise UserError(
            f"--rare-class-on {on}: this run reads no labelled target images; give --labelled N "
            "and a method that uses them, or drop the flag"
        )
    return orders


def _order(
    data: TrainingData,
    dataset: AnyDataset,
    indices: Sequence[int] | None,
    images: str,
    temperature: float,
    reporter: Reporter,
) -> RareClassOrder:
    labels = len(dataset) if indices is None else len(indices)
    reporter.phase("count classes", labels)
    found = class_histograms(
        dataset,
        indices,
        note=reporter.line,
        progress=lambda done, total: reporter.advance(done),
    )
    if found.bad and data.config.on_bad_sample == "stop":
        reason = next(iter(found.bad.values()))
        more = f" (and {len(found.bad) - 1} more)" if len(found.bad) > 1 else ""
        raise DataError(f"{reason}{more}; to train without it: --on-bad-sample skip")
    if not found.pixels.any():
        raise DataError(
            f"{dataset.root}: --rare-class: no label of the {images} images has a pixel of a class"
        )
    order = rare_class_order(found.pixels, found.ignored, temperature)
    reporter.line(describe(order, found, images, temperature))
    return order


def describe(
    order: RareClassOrder, histograms: ClassHistograms, images: str, temperature: float
) -> str:
    """One line: the classes that are drawn most and least often, and those that cannot be drawn."""
    names = histograms.classes
    drawn = sorted(
        zip(order.probabilities, order.classes, strict=True), key=lambda pair: (-pair[0], pair[1])
    )
    shown = [f"{names[c]} {p:.1%}" for p, c in drawn]
    middle = [*shown[:3], "…", *shown[-2:]] if len(shown) > 6 else shown
    line = (
        f"rare-class sampling of the {images} images, T = {temperature:g}: {', '.join(middle)} of "
        "the draws"
    )
    absent = [name for c, name in enumerate(names) if c not in order.classes]
    if absent:
        verb = "occurs" if len(absent) == 1 else "occur"
        line += f"; {', '.join(absent)} {verb} in no label and can't be drawn"
    return line
