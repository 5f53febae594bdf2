"""What a CUDA graph can't do is refused by name, before anything runs."""

from pathlib import Path

import pytest
import torch

from fastass.config.schema import Config, OptimConfig, RuntimeConfig
from fastass.errors import UserError
from fastass.runtime.device import Runtime
from fastass.runtime.process_group import World
from fastass.tracking.progress import Silent
from fastass.training.cuda_graph import check_cuda_graphs, describe_cuda_graph
from fastass.training.run import train


def runtime(device: str, amp: torch.dtype | None = None) -> Runtime:
    return Runtime(torch.device(device), amp, "", "triton", "", "off", False)


CUDA, CPU = runtime("cuda"), runtime("cpu")


def compiled(mode: str, **values: object) -> Config:
    where = RuntimeConfig(compile=True, compile_mode=mode)  # type: ignore[arg-type]
    return Config(runtime=where, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
@pytest.mark.parametrize(
    ("values", "flag"), [({"backward": "streamed"}, "--backward"), ({"accumulate": 2}, "--accumul")]
)
def test_compiled_graphs_hold_one_backward(mode: str, values: dict, flag: str) -> None:
    with pytest.raises(UserError, match=f"--compile-mode {mode} .* give {flag}"):
        check_cuda_graphs(compiled(mode, **values), CUDA)
    check_cuda_graphs(compiled(mode, **values), CPU)  # there it makes no graphs
    check_cuda_graphs(compiled("default", **values), CUDA)
    check_cuda_graphs(compiled(mode), CUDA)


def graphed(**values: object) -> Config:
    return Config(**values).with_runtime(cuda_graph=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "where", "world", "message"),
    [
        (graphed(), CPU, World(), "needs a GPU, and the device is cpu; leave out --cuda-graph"),
        (graphed().with_runtime(compile=True), CUDA, World(), "give --compile-mode reduce-over"),
        (graphed(), CUDA, World(size=2, grouped=True), "is for one process"),
        (graphed(), runtime("cuda", torch.float16), World(), "fp16's loss scaling.*give --no-amp"),
        (
            graphed(optim=OptimConfig(optimizer_backend="foreach")),
            CUDA,
            World(),
            "those of --optimizer-backend foreach don't; give --optimizer-backend torch",
        ),
        (
            graphed(optim=OptimConfig(optimizer_backend="apex")),
            CUDA,
            World(),
            "those of --optimizer-backend apex don't",
        ),
        # Their rates and counts of steps are Python's numbers: a graph would keep the first.
        *(
            (
                graphed(optim=OptimConfig(optimizer=name)),
                CUDA,
                World(),
                f"{name} doesn't; give --optimizer sgd or adamw",
            )
            for name in ("lars", "lamb", "muon")
        ),
    ],
)
def test_what_a_graph_of_the_whole_step_cannot_hold(
    config: Config, where: Runtime, world: World, message: str
) -> None:
    with pytest.raises(UserError, match=f"^--cuda-graph .*{message}"):
        check_cuda_graphs(config, where, world)


@pytest.mark.parametrize(
    "values",
    [{"backward": "streamed"}, {"backward": "concurrent"}, {"accumulate": 4}, {"mix": True}],
)
def test_what_a_graph_of_the_whole_step_holds(values: dict) -> None:
    check_cuda_graphs(graphed(**values), CUDA)
    check_cuda_graphs(graphed(**values), runtime("cuda", torch.bfloat16))


def test_the_heading_says_whether_the_step_is_a_graph() -> None:
    assert describe_cuda_graph(RuntimeConfig()) == "cuda graph off (not asked for)"
    assert describe_cuda_graph(RuntimeConfig(cuda_graph=True)).startswith("cuda graph on (one lau")


def test_a_run_is_refused_before_it_reads_anything(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--cuda-graph needs a GPU"):
        train(graphed().with_runtime(device="cpu"), tmp_path / "run", Silent())
    assert not list(tmp_path.iterdir())
