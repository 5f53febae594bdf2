"""The commands of the command line."""

import json
from argparse import Namespace
from pathlib import Path

from fastass import checkpoint
from fastass import doctor as diagnosis
from fastass.config import Config
from fastass.configfile import from_yaml, leaves, override, parse
from fastass.data import open_any
from fastass.errors import UserError
from fastass.evaluation import evaluate as evaluate_generator
from fastass.execution import Execution, choose
from fastass.models.deeplab import DeepLab, build_deeplab
from fastass.pipelines.classes import ClassTable
from fastass.pipelines.evaluation import EvalFeed
from fastass.pipelines.layouts import open_dataset
from fastass.pipelines.pack import pack as pack_dataset
from fastass.pipelines.toycity import generate
from fastass.pipelines.verify import verify as verify_packed
from fastass.predict import predict_files
from fastass.presets import PRESETS, preset
from fastass.progress import reporter
from fastass.results import iou_table
from fastass.run import CONFIG
from fastass.trainer import train as train_run


def train(args: Namespace) -> None:
    """`fastass train`."""
    if args.resume and args.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    if args.name and args.config:
        raise UserError("give a preset or --config, not both")
    given = {leaf.path: getattr(args, leaf.path, None) for leaf in leaves()}
    given = {path: value for path, value in given.items() if value is not None}
    out = args.out
    saved = out / CONFIG if out is not None else None
    if args.config is not None:
        base = from_yaml(args.config)
    elif args.name is None and args.resume and saved is not None and saved.is_file():
        base = from_yaml(saved)
    else:
        base = preset(args.name or "toycity")
    config = override(base, given)
    out = out if out is not None else Path("runs") / (config.preset or "run")
    train_run(
        config,
        out,
        reporter(args.plain),
        resume=args.resume,
        overwrite=args.overwrite,
        stop_at=args.stop_at,
    )


def evaluate(args: Namespace) -> None:
    """`fastass eval`."""
    config, generator, execution = _load(args)
    data = open_any(args.data, args.layout, args.split)
    if config.data.classes:
        data = data.with_classes(config.data.classes)
    if len(data.classes) != config.model.num_classes:
        raise UserError(
            f"{args.data}: has {len(data.classes)} classes, the checkpoint "
            f"{config.model.num_classes}"
        )
    with reporter() as report:
        report.phase("evaluate", len(data))
        done = 0

        def progress(images: int) -> None:
            nonlocal done
            done += images
            report.advance(done)

        feed = EvalFeed(
            data, config.data.target_size, config.data.normalize, workers=config.data.workers
        )
        scores = evaluate_generator(
            generator, feed, execution, data.classes, config.data.report, progress
        )
    print(iou_table([(args.split, scores.record())]))
    if args.json is not None:
        args.json.write_text(json.dumps(scores.record(), indent=2) + "\n", encoding="utf-8")


def predict(args: Namespace) -> None:
    """`fastass predict`."""
    config, generator, execution = _load(args)
    with reporter() as report:
        count = predict_files(
            generator,
            args.images,
            args.out,
            config.data.target_size,
            config.data.normalize,
            _classes(args.checkpoint),
            execution,
            lambda done, total: report.advance(done),
        )
    print(f"{count} images: {args.out}/*_trainIds.png, {args.out}/*_overlay.png")


def toycity(args: Namespace) -> None:
    """`fastass toycity`."""
    with reporter() as report:
        report.phase("generate", args.source + args.target + args.val)
        generate(
            args.directory,
            source=args.source,
            target=args.target,
            val=args.val,
            seed=args.seed,
            workers=args.workers,
            progress=lambda done, total: report.advance(done),
        )
    print(f"{args.directory}/gta5 (source), {args.directory}/cityscapes (target)")


def pack(args: Namespace) -> None:
    """`fastass pack`."""
    if args.verify is not None:
        return _verify(args.verify, args.workers)
    if args.root is None or args.size is None or args.out is None:
        raise UserError("pack needs --root DIR, --size WxH and --out DIR (or --verify DIR)")
    data = open_dataset(args.root, args.layout, args.split, args.labels)
    width, height = parse(args.size, tuple[int, int], "--size")
    with reporter() as report:
        report.phase("pack", len(data))
        result = pack_dataset(
            data,
            args.out,
            (width, height),
            image=args.image,
            label=args.label,
            quality=args.quality,
            workers=args.workers,
            on_bad_sample=args.on_bad_sample,
            records_per_shard=args.records_per_shard,
            progress=lambda done, total: report.advance(done),
        )
    for bad in result.bad:
        print(f"bad sample {bad.name}: {bad.reason}")
    print(f"{args.out}: {result.written} packed, {result.kept} kept, {len(result.bad)} bad")
    if not result.complete:
        raise UserError(
            f"{args.out}: not finished: {len(result.bad)} bad samples; mend or remove them, or "
            "pass --on-bad-sample skip, and run the same command again"
        )
    return None


def _verify(root: Path, workers: int | None) -> None:
    with reporter() as report:
        result = verify_packed(
            root, workers or 1, progress=lambda done, total: report.advance(done)
        )
    for damage in result.damages:
        print(damage)
    if result.damages:
        raise UserError(f"{root}: {len(result.damages)} damages; pack again to mend them")
    print(f"{root}: sound: {result.shards} shards, {result.records} records")


def doctor(args: Namespace) -> None:
    """`fastass doctor`."""
    print(diagnosis.report())


def presets(args: Namespace) -> None:
    """`fastass presets`."""
    width = max(map(len, PRESETS))
    for name, entry in PRESETS.items():
        reported = f"paper: {entry.miou} mIoU" if entry.miou is not None else ""
        print(f"{name:<{width}}  {entry.where:<28}{reported}".rstrip())


def _classes(path: Path) -> ClassTable:
    """Names and colours that the checkpoint was trained with."""
    file = checkpoint.find(path) / checkpoint.CLASSES
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        return ClassTable(
            "checkpoint", tuple(saved["names"]), tuple(tuple(c) for c in saved["colors"]), {}
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{file}: missing or damaged; the checkpoint is not complete") from None


def _load(args: Namespace) -> tuple[Config, DeepLab, Execution]:
    """Configuration and generator of a checkpoint, on the device asked for."""
    path = checkpoint.find(args.checkpoint)
    config = from_yaml(path / checkpoint.CONFIG)
    config = override(config, {"device": args.device, "kernels": args.kernels, "amp": args.amp})
    execution = choose(config)
    generator = build_deeplab(config.model)
    checkpoint.load_generator(generator, path)
    return config, generator.to(execution.device), execution
