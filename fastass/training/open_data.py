"""Opening the data sets of a run, or ToyCity, and checking that they fit each other."""

import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from fastass.config.schema import Config, DataConfig, ToyCityConfig
from fastass.config.values import local_path
from fastass.errors import UserError
from fastass.pipelines.datasets.classes import repeated
from fastass.pipelines.datasets.files import open_files
from fastass.pipelines.datasets.layouts import Dataset, Sample, open_dataset
from fastass.pipelines.datasets.mask_check import mask_warning
from fastass.pipelines.datasets.zip_files import ZipMember
from fastass.pipelines.errors import DataError, printable
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.dataset import AnyDataset, PackedDataset, is_packed, open_packed
from fastass.pipelines.toycity import generate, is_complete
from fastass.tracking.progress import Reporter
from fastass.training.data import TrainingData


def open_training_data(config: Config, reporter: Reporter) -> tuple[TrainingData, Config]:
    """Open or generate the data → (data, the configuration with paths and number of classes).

    Raises DataError or UserError for whatever is missing or does not fit.
    """
    for name in ("source", "target", "val"):  # before minutes go into generating the others
        root = getattr(config.data, name)
        if root is not None and "://" not in root:
            _check_there(root, name)
    if config.preset == "toycity":
        config = replace(config, data=_with_toycity(config.data, config.toycity, reporter))
    d = config.data
    source = None
    if config.method != "oracle":
        root = _given(d.source, "source")
        source = _subset(open_any(root, d.source_layout, "train"), d.classes)
    root = _given(d.target, "target")
    target = _subset(open_any(root, d.target_layout, "train", labels="optional"), d.classes)
    if d.val is None and isinstance(target, PackedDataset):
        raise UserError(
            f"{root} is packed, and packed labels have training size; for validation at full size "
            "give the data set as shipped, --data-val DIR"
        )
    _check_packed(source, "source", (d.scale and d.source_resize) or d.source_size)
    _check_packed(target, "target", (d.scale and d.target_resize) or d.target_size)
    val = _subset(
        open_any(d.val or root, d.target_layout, "val", whole=d.val is not None), d.classes
    )
    check_apart(val, {"source": source, "target": target})
    shipped = [data for data in (source, target, val) if isinstance(data, Dataset)]
    for warning in dict.fromkeys(map(mask_warning, shipped)):
        if warning is not None:
            reporter.line(warning)
    if source is not None and source.classes.names != val.classes.names:
        raise UserError(
            f"data.source has classes {', '.join(source.classes.names[:3])}, …, data.target "
            f"{', '.join(val.classes.names[:3])}, …: they must be the same; see --data-classes"
        )
    missing = [name for name in d.report if name not in val.classes.names]
    if missing:
        raise UserError(f"data.report: class {missing[0]!r} is not one of those trained")
    if (twice := repeated(d.report)) is not None:
        raise UserError(f"data.report: class {twice!r} is listed twice; leave one of them out")
    labelled = select_labelled(target, config.labelled, config.labelled_seed, config.labelled_list)
    if source is not None and (warning := shared_warning(source, target, labelled)) is not None:
        reporter.line(warning)
    data = TrainingData(
        d, source, target, val, labelled, config.batch, config.seed, config.model.channels
    )
    model = replace(config.model, num_classes=len(val.classes))
    return data, replace(config, model=model)


def open_any(
    root: str, layout: str, split: str | None, labels: str = "required", *, whole: bool = False
) -> Dataset | PackedDataset:
    """A packed directory, or a data set as it was shipped. whole: see `open_dataset`.

    split: None: the one that is packed there, else train.
    """
    local_path(root)
    if is_packed(root) or is_packed(Path(root) / (split or "train")):
        return open_packed(root, split or (None if is_packed(root) else "train"))
    return open_dataset(root, layout, split or "train", labels, whole=whole)  # type: ignore[arg-type]


def _check_there(root: str, name: str) -> None:
    try:
        open_files(root)
    except DataError as error:
        raise UserError(f"--data-{name}: {error}") from None


def check_apart(val: AnyDataset, training: Mapping[str, AnyDataset | None]) -> None:
    """UserError if an image is trained on and validated on, under whatever path.

    Packed data are compared with nothing: shards do not say where an image came from.
    """
    if not isinstance(val, Dataset):
        return
    validated = {_real(sample): sample for sample in val.samples}
    for name, data in training.items():
        for sample in data.samples if isinstance(data, Dataset) else ():
            if _real(sample) in validated:
                raise UserError(
                    f"{sample.image}: in the {name} training images and in the validation images; "
                    "give other data for validation, --data-val DIR"
                )


def shared_warning(source: AnyDataset, target: AnyDataset, labelled: Collection[int]) -> str | None:
    """A line if the labels of images that count as unlabelled are known from the source.

    Packed data are compared with nothing, as in `check_apart`.
    """
    if not (isinstance(source, Dataset) and isinstance(target, Dataset)):
        return None
    known = set(map(_real, source.samples))
    labels = set(labelled)
    unlabelled = [sample for i, sample in enumerate(target.samples) if i not in labels]
    shared = [sample for sample in unlabelled if _real(sample) in known]
    if not shared:
        return None
    return (
        f"{len(shared)} of the {len(unlabelled)} unlabelled target images are source images too, "
        f"such as {shared[0].image}: training uses their labels, so its result is not one of few "
        "labels"
    )


def _real(sample: Sample) -> str:
    if isinstance(sample.image, ZipMember):
        return f"{os.path.realpath(sample.image.archive)}/{sample.image.name}"
    return os.path.realpath(sample.image)


def select_labelled(
    target: AnyDataset, count: int, seed: int, list_file: str | None
) -> tuple[int, ...]:
    """Indices of the labelled images: those in `list_file`, or `count` of them chosen by `seed`.

    They are the first of a permutation, so a smaller number is a subset of a larger one. Raises
    UserError for a number larger than the set, an unknown name, an image without a label.
    """
    names = open_reader(target).names
    if list_file is not None:
        chosen = _listed(Path(list_file), {printable(name): i for i, name in enumerate(names)})
    elif count > len(names):
        raise UserError(
            f"labelled: {count} is more than the {len(names)} target training images "
            f"in {target.root}"
        )
    else:
        order = np.random.default_rng(seed).permutation(len(names))
        chosen = sorted(int(i) for i in order[:count])
    if isinstance(target, Dataset):
        for i in chosen:
            if target.samples[i].label is None:
                raise UserError(f"{target.samples[i].image}: chosen as labelled, but has no label")
    return tuple(chosen)


def _listed(path: Path, index: dict[str, int]) -> list[int]:
    """The indices of the names in a list, one a line, `printable` as in messages and in runs."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        wanted = [line if line in index else printable(line.strip()) for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the list of labelled images can't be read: {error}") from None
    wanted = [name for name in wanted if name]
    unknown = [name for name in wanted if name not in index]
    if unknown:
        raise UserError(f"{path}: {unknown[0]!r} is not a target training image")
    return sorted({index[name] for name in wanted})


def _given(path: str | None, domain: str) -> str:
    if path is None:
        raise UserError(
            f"data.{domain} is not set: give --data-{domain} DIR, or use the preset toycity"
        )
    return path


def _check_packed(dataset: AnyDataset | None, domain: str, size: tuple[int, int]) -> None:
    """UserError for images that were packed at less than the size that training reads."""
    if not isinstance(dataset, PackedDataset):
        return
    packed = dataset.size
    if packed[0] < size[0] or packed[1] < size[1]:
        raise UserError(
            f"{dataset.root}: packed at {packed[0]}x{packed[1]}, smaller than the {size[0]}x"
            f"{size[1]} that {domain} images are trained at; pack it again with --size, or pass "
            f"--data-{domain}-size {packed[0]}x{packed[1]}"
        )


def _subset(dataset: AnyDataset, classes: tuple[str, ...]) -> AnyDataset:
    return dataset.with_classes(classes) if classes else dataset


def _with_toycity(data: DataConfig, toy: ToyCityConfig, reporter: Reporter) -> DataConfig:
    """`data` with ToyCity as the source and target that are not given; generates it once."""
    if data.source and data.target:
        return data
    root = Path(toy.directory)
    if not is_complete(root, toy.source, toy.target, toy.seed, toy.val, shift=toy.shift):
        reporter.line(f"generating ToyCity in {root}")
        reporter.phase("generate", toy.source + toy.target + toy.val)
        generate(
            root,
            toy.source,
            toy.target,
            toy.seed,
            toy.val,
            shift=toy.shift,
            workers=max(1, data.workers),
            progress=lambda done, total: reporter.advance(done),
            on_wait=reporter.line,
        )
    source = data.source or str(root / "gta5")
    return replace(data, source=source, target=data.target or str(root / "cityscapes"))
