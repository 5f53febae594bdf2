"""`fastass bench scale`."""

from argparse import ArgumentParser, Namespace
from datetime import date
from typing import TYPE_CHECKING, Any

from fastass.cli.bench.step import configured, measuring_flags
from fastass.cli.command import Command
from fastass.cli.train import config_flags, hide_uncommon
from fastass.config.text import parse
from fastass.errors import UserError

if TYPE_CHECKING:
    from fastass.bench.scaling.allreduce_model import Cluster
    from fastass.bench.scaling.timeline import Timeline

# A node of eight H100: NVLink 450 GB/s and a 400 Gb/s card, per GPU and direction (NVIDIA's data
# sheets), 80 % of both; latencies of NCCL's own model (src/graph/tuning.cc, ring, Simple).
GPUS = "8,16,32,64,128,256,512,1024,2048,4096"
DEFAULTS = {"intra_us": 3.4, "intra_gbs": 360.0, "inter_us": 14.0, "inter_gbs": 40.0}
HELP = {
    "intra_us": "latency of a message between two GPUs of a node, µs (NCCL's model of NVLink)",
    "intra_gbs": "bandwidth in a node, GB/s per GPU and direction (80 %% of an H100's NVLink)",
    "inter_us": "latency between nodes, µs (NCCL's model of a network)",
    "inter_gbs": "bandwidth between nodes, GB/s per GPU and direction (80 %% of 400 Gb/s)",
}


def flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("name", nargs="?", metavar="PRESET", help="preset to measure [default toycity]")
    measuring_flags(parser, rounds=15)
    add("--gpus", default=GPUS, help="numbers of GPUs to predict")
    add("--gpus-per-node", type=int, default=8, metavar="N", help="GPUs per node")
    for name, default in DEFAULTS.items():
        add(_flag(name), type=float, default=default, metavar="X", help=HELP[name])
    add(
        "--bucket-mib",
        type=float,
        default=25.0,
        help="MiB of gradients exchanged at once",
    )
    add("--step-ms", type=float, help="predict for a step of this time instead of measuring one")
    add("--gradient-mib", type=float, help="with --step-ms: size of the gradients")
    share = "with --step-ms: share of the step in which gradients become complete"
    add("--backward-share", type=float, default=0.5, metavar="SHARE", help=share)
    add(
        "--ranks",
        default="1,2,4",
        help="numbers of CPU ranks that check the model; '' for none",
    )
    config_flags(parser)
    hide_uncommon(parser)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(args: Namespace) -> None:
    from fastass.bench.result import write_result
    from fastass.bench.scaling import scale
    from fastass.bench.scaling.timeline import MIB
    from fastass.bench.step import compare
    from fastass.runtime.device import describe_runtime
    from fastass.tracking.terminal import reporter

    cluster, gpus, sizes = _cluster(args), _numbers(args, "gpus"), _numbers(args, "ranks")
    for n in gpus:
        if n > cluster.gpus_per_node and n % cluster.gpus_per_node:
            raise UserError(f"--gpus: {n} are not whole nodes of {cluster.gpus_per_node}")
    config = configured(args, args.name or "toycity")
    given = _given(args)
    limit, compress = args.bucket_mib * MIB, config.distributed.compress
    with reporter() as progress:
        if given is not None:
            timeline, sizes, heading = given, (), f"a step of {args.step_ms:g} ms, as given"
        else:
            heading = compare.heading(config, describe_runtime(config.runtime).line)
            progress.phase("step", 0)
            timeline = scale.measure_step(config, args.rounds, args.warmup_rounds)
        rows = scale.predict(timeline, cluster, gpus, limit=limit, compress=compress)
        notes = scale.assumptions(cluster, limit, compress, timeline.backward_share)
        result: dict[str, Any] = {
            "heading": heading,
            "date": str(date.today()),
            "step_seconds": timeline.seconds,
            "gradient_bytes": timeline.size,
            "assumptions": notes,
            "predicted": scale.record(rows),
        }
        if args.json is not None:  # before it is printed: the output may be closed
            write_result(args.json, "fastass bench scale", result)
        print(f"{heading}; {date.today()}")
        print(f"step alone {1e3 * timeline.seconds:.1f} ms, {timeline.size / MIB:.1f} MiB\n")
        print("\n".join(f"- {note}" for note in notes))
        print(f"\n{scale.prediction_table(rows)}")
        checks = []
        for n in sizes:
            progress.phase(f"{n} ranks", 0)
            checks.append(scale.check(config, n, args.rounds, args.warmup_rounds))
    if not checks:
        return
    result["checked"] = scale.record(checks)
    if (share := scale.overhead(checks)) is not None:
        result["overhead"] = share
    if args.json is not None:
        write_result(args.json, "fastass bench scale", result)
    print("\nCPU ranks of one thread each, gloo; a step alone is timed while all ranks step:\n")
    print(scale.check_table(checks))
    if share is not None:
        print(f"\na process group of one rank: {100 * share:+.1f} % of a step")


def _cluster(args: Namespace) -> "Cluster":
    from fastass.bench.scaling.allreduce_model import Cluster, Link

    for name in ("gpus_per_node", "intra_gbs", "inter_gbs", "bucket_mib"):
        if not getattr(args, name) > 0:
            raise UserError(f"{_flag(name)}: expected more than 0, got {getattr(args, name)}")
    for name in ("intra_us", "inter_us"):
        if not getattr(args, name) >= 0:
            raise UserError(f"{_flag(name)}: expected 0 or more, got {getattr(args, name)}")
    return Cluster(
        args.gpus_per_node,
        Link(1e-6 * args.intra_us, 1e-9 / args.intra_gbs),
        Link(1e-6 * args.inter_us, 1e-9 / args.inter_gbs),
    )


def _numbers(args: Namespace, name: str) -> tuple[int, ...]:
    numbers: tuple[int, ...] = parse(getattr(args, name), tuple[int, ...], f"--{name}")
    for n in numbers:
        if n < 1:
            raise UserError(f"--{name}: expected at least 1, got {n}")
    return numbers


def _given(args: Namespace) -> "Timeline | None":
    """The step of --step-ms and --gradient-mib."""
    from fastass.bench.scaling.timeline import MIB, uniform

    if args.step_ms is None and args.gradient_mib is None:
        return None
    for name in ("step_ms", "gradient_mib", "backward_share"):
        value = getattr(args, name)
        if value is None or not value > 0:
            raise UserError(f"{_flag(name)}: expected more than 0, got {value}")
    if args.backward_share > 1:
        raise UserError(f"--backward-share: expected at most 1, got {args.backward_share}")
    return uniform(args.step_ms / 1e3, args.gradient_mib * MIB, args.backward_share)


COMMAND = Command(
    "scale",
    "predict the efficiency of a step on 8 to 4096 GPUs; check the model on CPU ranks",
    "fastass bench scale gta5_to_cityscapes_csa_500 --norm frozen --json scale.json",
    flags,
    run,
)
