"""CUDA graphs: what they can't do, said before a run starts."""

from fastass.config.schema import Config, RuntimeConfig
from fastass.errors import UserError
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import SINGLE_PROCESS, World
from fastass.training.graphed_step import EAGER_STEPS

# Modes of torch.compile that put what they compile into CUDA graphs.
GRAPH_MODES = ("reduce-overhead", "max-autotune")


def check_cuda_graphs(config: Config, runtime: Runtime, world: World = SINGLE_PROCESS) -> None:
    """UserError for what a CUDA graph can't hold, or would read after its memory was used again."""
    if config.runtime.cuda_graph:
        _check_whole_step(config, runtime, world)
    elif runtime.device.type == "cuda" and config.runtime.compile:
        _check_compiled(config)


def describe_cuda_graph(config: RuntimeConfig) -> str:
    """Whether the step is a CUDA graph, for the heading of a run on a GPU."""
    if not config.cuda_graph:
        return "cuda graph off (not asked for)"
    return f"cuda graph on (one launch per step after {EAGER_STEPS} eager ones)"


def _check_whole_step(config: Config, runtime: Runtime, world: World) -> None:
    """What `--cuda-graph` can't record. Sizes that change are found when they do."""
    remedy = "leave out --cuda-graph"
    if runtime.device.type != "cuda":
        raise UserError(f"--cuda-graph needs a GPU, and the device is {runtime.device}; {remedy}")
    if config.runtime.compile:
        raise UserError(
            f"--cuda-graph records the eager step, which --compile replaces; {remedy}, or give "
            "--compile-mode reduce-overhead for CUDA graphs of the compiled step"
        )
    if world.grouped:
        raise UserError(
            "--cuda-graph is for one process: the ranks exchange gradients and counts between "
            f"their kernels; {remedy}"
        )
    if runtime.amp_name == "fp16":
        raise UserError(
            "--cuda-graph can't record fp16's loss scaling, which leaves steps out by what the CPU "
            f"reads from the GPU; {remedy}, or give --no-amp"
        )
    backend = config.optim.optimizer_backend
    if backend != "torch":
        raise UserError(
            f"--cuda-graph needs optimizers that read their learning rate on the GPU, and those of "
            f"--optimizer-backend {backend} don't; give --optimizer-backend torch, or {remedy}"
        )
    if config.optim.optimizer in ("lars", "lamb", "muon"):
        raise UserError(
            f"--cuda-graph needs optimizers that read their learning rate on the GPU, and "
            f"{config.optim.optimizer} doesn't; give --optimizer sgd or adamw, or {remedy}"
        )


def _check_compiled(config: Config) -> None:
    """A compiled backward leaves its gradients in the graph's memory, and the next forward of the
    same step would overwrite them before they are added up."""
    runtime = config.runtime
    if runtime.compile_mode not in GRAPH_MODES:
        return
    what = f"--compile-mode {runtime.compile_mode} puts the step into CUDA graphs"
    if config.backward == "streamed":
        raise UserError(
            f"{what}, which hold one backward per step: give --backward fused, or "
            "--compile-mode default to keep --backward streamed"
        )
    if config.accumulate > 1:
        raise UserError(
            f"{what}, which hold one backward per step: give --accumulate 1, or "
            f"--compile-mode default to keep --accumulate {config.accumulate}"
        )
