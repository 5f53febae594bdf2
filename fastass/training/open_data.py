"""Opening the data sets of a run: those given, or ToyCity; and whether they fit each other."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.pipelines.datasets.layouts import Dataset, open_dataset
from fastass.pipelines.datasets.mask_check import mask_warning
from fastass.pipelines.loaders.sample_reader import open_reader
from fastass.pipelines.packed.dataset import PackedDataset, is_packed, open_packed
from fastass.pipelines.toycity import generate, is_complete
from fastass.tracking.progress import Reporter
from fastass.training.data import AnyDataset, TrainingData


def open_training_data(config: Config, reporter: Reporter) -> tuple[TrainingData, Config]:
    """Open or generate the data; → (data, the configuration with its number of classes).

    Raises DataError or UserError for whatever is missing or does not fit.
    """
    for name in ("source", "target", "val"):  # before minutes go into generating the others
        root = getattr(config.data, name)
        if root is not None and "://" not in root and not Path(root).is_dir():
            raise UserError(f"--data-{name}: {root}: no such directory")
    config = _with_toycity(config, reporter)
    d = config.data
    source = None
    if config.method != "oracle":
        source = _subset(open_any(_given(d.source, "source"), d.source_layout, "train"), config)
    root = _given(d.target, "target")
    target = _subset(open_any(root, d.target_layout, "train", labels="optional"), config)
    if d.val is None and isinstance(target, PackedDataset):
        raise UserError(
            f"{root} is packed, and packed labels have training size: give the data set as shipped "
            "for validation, --data-val DIR"
        )
    _check_packed(source, "source", (d.scale and d.source_resize) or d.source_size)
    _check_packed(target, "target", (d.scale and d.target_resize) or d.target_size)
    val = _subset(open_any(d.val or root, d.target_layout, "val", whole=d.val is not None), config)
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
    data = TrainingData(config, source, target, val, select_labelled(target, config))
    model = replace(config.model, num_classes=len(val.classes))
    return data, replace(config, model=model)


def open_any(
    root: str, layout: str, split: str, labels: str = "required", *, whole: bool = False
) -> Dataset | PackedDataset:
    """A packed directory, or a data set as it was shipped. whole: see `open_dataset`."""
    if "://" in root:
        raise UserError(
            f"{root}: only local files are read; copy or mount it, see docs/pipelines.md, "
            "Remote shards"
        )
    if is_packed(root) or is_packed(Path(root) / split):
        return open_packed(root, split)
    return open_dataset(root, layout, split, labels, whole=whole)  # type: ignore[arg-type]


def select_labelled(target: AnyDataset, config: Config) -> tuple[int, ...]:
    """The labelled images: those of the list file, or the first N of a permutation by seed.

    So fewer labels are a subset of more. Raises UserError for a number larger than the set, an
    unknown name, an image without a label.
    """
    names = open_reader(target).names
    if config.labelled_list is not None:
        chosen = _listed(Path(config.labelled_list), {name: i for i, name in enumerate(names)})
    elif config.labelled > len(names):
        raise UserError(
            f"labelled: {config.labelled} is more than the {len(names)} target training images "
            f"in {target.root}"
        )
    else:
        order = np.random.default_rng(config.labelled_seed).permutation(len(names))
        chosen = sorted(int(i) for i in order[: config.labelled])
    if isinstance(target, Dataset):
        for i in chosen:
            if target.samples[i].label is None:
                raise UserError(f"{target.samples[i].image}: chosen as labelled, but has no label")
    return tuple(chosen)


def _listed(path: Path, index: dict[str, int]) -> list[int]:
    try:
        wanted = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
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
    """Raise UserError where packing has already made images smaller than training wants them."""
    if not isinstance(dataset, PackedDataset):
        return
    packed = dataset.size
    if packed[0] < size[0] or packed[1] < size[1]:
        raise UserError(
            f"{dataset.root}: packed at {packed[0]}x{packed[1]}, smaller than the {size[0]}x"
            f"{size[1]} that {domain} images are trained at: pack it again with --size, or pass "
            f"--data-{domain}-size {packed[0]}x{packed[1]}"
        )


def _subset(dataset: AnyDataset, config: Config) -> AnyDataset:
    return dataset.with_classes(config.data.classes) if config.data.classes else dataset


def _with_toycity(config: Config, reporter: Reporter) -> Config:
    """For the preset `toycity`: generate what is not given, once."""
    d, toy = config.data, config.toycity
    if config.preset != "toycity" or (d.source and d.target):
        return config
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
            workers=max(1, d.workers),
            progress=lambda done, total: reporter.advance(done),
            on_wait=reporter.line,
        )
    source, target = d.source or str(root / "gta5"), d.target or str(root / "cityscapes")
    return replace(config, data=replace(d, source=source, target=target))
