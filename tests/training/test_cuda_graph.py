"""What a CUDA graph can't do is refused by name, before anything runs."""

import pytest
import torch

from fastass.config.schema import Config, RuntimeConfig
from fastass.errors import UserError
from fastass.training.cuda_graph import check_cuda_graphs

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def compiled(mode: str, **values: object) -> Config:
    runtime = RuntimeConfig(compile=True, compile_mode=mode)  # type: ignore[arg-type]
    return Config(runtime=runtime, **values)  # type: ignore[arg-type]


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
