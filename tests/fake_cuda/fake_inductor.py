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
from recorder import PRODUCTS, Meta, Op
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.device_interface import CudaInterface
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering


class Properties:
    """Those of an H100 that inductor asks for."""

    name = "NVIDIA H100 80GB HBM3"
    major, minor, gcnArchName, uuid = 9, 0, "", "fake"
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
    fake_tensor.init_gpu_context = lambda device: None
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
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    asked: dict[str, Any] = {
        "is_available": lambda: True,
        "current_device": lambda: 0,
        "get_device_properties": lambda *device: properties,
        "get_compute_capability": lambda device=None: "90",
        "is_bf16_supported": lambda including_emulation=False: True,
    }
    for name, answer in asked.items():
        setattr(CudaInterface, name, staticmethod(answer))
    CudaInterface.Worker.get_device_properties = staticmethod(lambda *device: properties)  # type: ignore[method-assign]
    CudaInterface.Worker.current_device = staticmethod(lambda: 0)  # type: ignore[method-assign]
    torch.utils._triton.has_triton = lambda *device: True
    # These passes run small examples on the device when they are set up.
    attention._sfdp_init = lambda *device: None
    patterns._misc_patterns_init = lambda *device: None
    pad._pad_mm_init = lambda *device: None
    torch._inductor.config.joint_graph_constant_folding = False


class Generated:
    """A backend for torch.compile; `graphs` has a list of operations per graph, in order."""

    def __init__(self) -> None:
        self.graphs: list[tuple[str, list[Op]]] = []
        self.code: list[str] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        from functorch.compile import min_cut_rematerialization_partition

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
            code = lowering.codegen()[0]
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
        return graph


def operations(lowering: GraphLowering) -> list[Op]:
    """What a lowered graph launches: fused kernels, and torch's operators with their shapes."""
    found = []
    for node in lowering.scheduler.nodes:
        inner = node.node
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
        operator = Op(name, described(inner.inputs), described(made), list(inner.constant_args))
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
