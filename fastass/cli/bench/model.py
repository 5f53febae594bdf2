"""`fastass bench model`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from fastass.bench.model import rates, roofline, trace
from fastass.bench.model.fits import check
from fastass.bench.result import write_result
from fastass.cli.command import Command
from fastass.cli.parser import typed
from fastass.config.presets import preset
from fastass.config.schema import Count
from fastass.config.values import local_path

DEFAULT = "gta5_to_cityscapes_csa_500"


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "name",
        nargs="?",
        metavar="PRESET",
        default=DEFAULT,
        help="preset of the modelled step; see `fastass presets`",
    )
    add("--batch", type=typed(Count), default=8, metavar="N", help="images per stream")
    add(
        "--norm",
        choices=("batch", "frozen"),
        help="norm of the network [default: as in the preset]",
    )
    add("--gpu", choices=tuple(rates.DATA_SHEET), default="H100", help="GPU to model")
    add(
        "--mode",
        choices=trace.MODES,
        default="eager",
        help="how the step runs; fused: eager with every switch on",
    )
    add("--json", type=local_path, metavar="FILE", help="also write the result there")


def run(args: Namespace) -> None:
    config = preset(args.name)
    norm = args.norm or config.model.norm
    kept = trace.read(config.method, norm, args.mode)
    check(config, kept)
    gpu = rates.gpu(args.gpu)
    parts = roofline.parts(kept, gpu, args.batch)
    step = roofline.total(parts)
    if args.json is not None:
        result = {
            "modelled": True,
            "preset": args.name,
            "norm": norm,
            "mode": args.mode,
            "batch": args.batch,
            "gpu": gpu.name,
            "torch": kept.torch,
            "step": asdict(step),
            "parts": [asdict(part) for part in parts],
            "peak_bytes": trace.at(kept.peak, args.batch),
        }
        write_result(args.json, "fastass bench model", result)
    root = trace.checkout()
    if root is not None and trace.sources_hash(root) != kept.sources:
        print(f"warning: the code has changed since this trace was written; {trace.REMEDY}\n")
    print(
        f"modelled, not measured: {args.name}, {config.method}, norm {norm}, {kept.backbone}, "
        f"bf16, {args.mode}, batch {args.batch}, {gpu.name}\n\n{roofline.table(parts)}\n"
    )
    most = roofline.largest_batch(kept, gpu.memory)
    print(
        f"modelled step {1e3 * step.seconds:.1f} ms on the GPU, "
        f"{step.flops / 1e12:.1f} TFLOP, "
        f"{100 * step.flops / step.seconds / gpu.peak:.0f} % of {gpu.peak / 1e12:.0f} TFLOP/s, "
        f"{step.kernels} kernels, {step.bytes / 1e9:.1f} GB read and written\n"
        f"modelled peak memory {trace.at(kept.peak, args.batch) / 1e9:.1f} GB of tensors; "
        f"largest batch in {gpu.memory / 1e9:.0f} GB: {most}"
    )


COMMAND = Command(
    "model",
    "milliseconds of a step's parts on a GPU, modelled from what the step runs",
    "fastass bench model gta5_to_cityscapes_csa_500 --batch 8 --norm frozen",
    flags,
    run,
)
