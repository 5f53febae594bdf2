"""CUDA graphs: what they can't do, said before a run starts."""

import torch

from fastass.config.schema import Config
from fastass.errors import UserError

# Modes of torch.compile that put what they compile into CUDA graphs.
GRAPH_MODES = ("reduce-overhead", "max-autotune")


def check_cuda_graphs(config: Config, device: torch.device) -> None:
    """UserError for what would read memory that a CUDA graph has reused.

    A compiled backward leaves its gradients in the graph's memory, and the next forward of the same
    step would overwrite them before they are added up.
    """
    runtime = config.runtime
    if device.type != "cuda" or not runtime.compile or runtime.compile_mode not in GRAPH_MODES:
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
