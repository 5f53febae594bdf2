"""Inductor's own code generation for an H100, without one: kernels and bytes of a compiled graph.

`install` answers what torch.compile asks a driver. `Generated` is a backend that lets inductor
lower, fuse and generate code, notes what each graph runs, and then runs the graph without data.
Nothing is compiled to machine code: that is the ahead-of-time check's (`kernels/aot`).
"""

import os
from collections.abc import Sequence
from typing import Any

os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import torch
import torch._inductor.compile_fx as compile_fx
import torch._inductor.config
from functorch.compile import (  # type: ignore[import-untyped]
    make_boxed_func,
    min_cut_rematerialization_partition,
)
from recorder import PRODUCTS, Meta, Op
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch.utils._pytree import tree_leaves


class Properties:
    """Those of an H100 that inductor asks for."""

    name = "NVIDIA H100 80GB HBM3"
    major, minor, uuid = 9, 0, "fake"
    gcnArchName = ""  # noqa: N815
    total_memory = 80 << 30
    multi_processor_count = 132
    regs_per_multiprocessor = regs_per_block = 65536
    max_threads_per_multi_processor, max_threads_per_block, warp_size = 2048, 1024, 32
    shared_memory_per_block, shared_memory_per_block_optin = 49152, 232448
    shared_memory_per_multiprocessor = 233472
    L2_cache_size = 50 << 20
    is_integrated, clock_rate = 0, 1980000


class _Done(Exception):
    """Code was generated; compiling and loading it would need the GPU."""


def install() -> None:
    """Change what torch answers about the device, in this process."""
    import torch._inductor.fx_passes.fuse_attention as attention
    import torch._inductor.fx_passes.misc_patterns as patterns
    import torch._inductor.fx_passes.pad_mm as pad
    import torch._subclasses.fake_tensor as fake_tensor
    import torch.utils._triton
    import triton
    from triton.backends.compiler import GPUTarget

    class Driver:
        def get_current_device(self) -> int:
            return 90

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

    triton.runtime.driver.set_active(Driver())
    properties, state = Properties(), torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "_is_compiled": lambda: True,
        "is_initialized": lambda: False,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "get_device_properties": lambda *device: properties,
        "get_device_name": lambda *device: properties.name,
        "synchronize": lambda *device: None,
        "is_current_stream_capturing": lambda: False,
        "get_rng_state": lambda *device: state,
        "set_rng_state": lambda *state: None,
        "set_device": lambda device: None,
        "_exchange_device": lambda index: 0,
        "_maybe_exchange_device": lambda index: 0,
    }
    asked: dict[str, Any] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda *device: properties,
        "get_compute_capability": lambda device=None: "90",
        "is_bf16_supported": lambda including_emulation=False: True,
    }
    of_worker: dict[str, Any] = {
        "get_device_properties": lambda *device: properties,
        "current_device": lambda: 0,
    }

    def nothing(*device: object) -> None:
        """For passes that run small examples on the device when they are set up."""

    replace(torch.cuda, answers)
    replace(CudaInterface, {name: staticmethod(answer) for name, answer in asked.items()})
    replace(
        CudaInterface.Worker, {name: staticmethod(answer) for name, answer in of_worker.items()}
    )
    replace(torch.utils._triton, {"has_triton": lambda *device: True})
    replace(fake_tensor, {"init_gpu_context": nothing})
    replace(attention, {"_sfdp_init": nothing})
    replace(patterns, {"_misc_patterns_init": nothing})
    replace(pad, {"_pad_mm_init": nothing})
    torch._inductor.config.joint_graph_constant_folding = False


def replace(where: object, values: dict[str, Any]) -> None:
    """Set attributes of a module or a class."""
    for name, value in values.items():
        setattr(where, name, value)


class Generated:
    """A backend for torch.compile; `graphs` has a list of operations per graph, in order."""

    def __init__(self) -> None:
        self.graphs: list[tuple[str, list[Op]]] = []
        self.code: list[str] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def partition(joint: Any, given: Any, **options: Any) -> Any:
            options["compiler"] = "inductor"
            return min_cut_rematerialization_partition(joint, given, **options)

        return aot_autograd(
            fw_compiler=lambda graph, given: self._generate("forward", graph, given),
            bw_compiler=lambda graph, given: self._generate("backward", graph, given),
            partition_fn=partition,
            decompositions=select_decomp_table(),
            keep_inference_input_mutations=True,
        )(module, inputs)

    def _generate(self, phase: str, graph: torch.fx.GraphModule, given: Any) -> Any:
        original = GraphLowering.compile_to_module

        def stop(lowering: GraphLowering) -> None:
            code: Any = lowering.codegen()[0]
            self.code.append(getattr(code, "value", code))
            self.graphs.append((phase, operations(lowering)))
            raise _Done

        GraphLowering.compile_to_module = stop  # type: ignore[assignment,method-assign]
        try:
            compile_fx.compile_fx_inner(graph, given, is_inference=False, graph_id=0)
        except Exception as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, _Done):
                cause = cause.__cause__ or cause.__context__
            if cause is None:
                raise
        finally:
            GraphLowering.compile_to_module = original  # type: ignore[method-assign]
        return make_boxed_func(graph)


def operations(lowering: GraphLowering) -> list[Op]:
    """What a lowered graph launches: fused kernels, and torch's operators with their shapes."""
    found = []
    for node in lowering.scheduler.nodes:
        inner: Any = node.node
        if "Nop" in type(node).__name__ or type(inner).__name__ == "MultiOutput":
            continue  # starts no kernel
        if not node.is_extern():
            name = "inductor:fused reduction" if node.is_reduction() else "inductor:fused"
            found.append(Op(name, [], [], int(node.get_read_write_buffers_sizes())))
            continue
        overload = getattr(inner, "op_overload", None)
        if overload is None:
            name = "aten::" + str(inner.python_kernel_name).rpartition(".")[2]
        else:
            name = overload.name()
        made = list(getattr(inner, "outputs", None) or [inner])
        constants = tree_leaves(inner.constant_args)
        if "convolution_backward" in name:
            constants[-3:] = [constants[-3:]]  # which gradients are wanted
        operator = Op(name, described(inner.inputs), described(made), constants)
        operator.multiplies = name.partition("::")[2].split(".")[0] in PRODUCTS
        found.append(operator)
    return found


def described(nodes: Sequence[Any]) -> list[Meta]:
    """Tensors of inductor's graph."""
    return [
        Meta(tuple(map(int, n.get_size())), n.get_dtype(), tuple(map(int, n.get_stride())))
        for n in nodes
        if n is not None  # an output that nothing asks for
    ]
