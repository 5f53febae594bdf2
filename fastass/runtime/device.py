"""Device, precision and operators of a run: how they are chosen, described and set up."""

from dataclasses import dataclass, replace

import torch

from fastass import kernels
from fastass.config.schema import RuntimeConfig
from fastass.errors import UserError
from fastass.kernels import native_library

# Precision of a forward pass by its autocast dtype; None is no autocast.
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}


@dataclass(frozen=True)
class Runtime:
    """What was chosen for this process. `line` is for the heading of a run."""

    device: torch.device
    amp_dtype: torch.dtype | None
    amp_reason: str
    kernels: str
    tf32: str
    compile: str
    tuned: bool  # whether malloc keeps freed blocks in this process
    cudnn: str = ""  # how cuDNN chooses its algorithms; empty on a CPU
    fused: str = ""  # which convolutions are fused; empty on a CPU

    def autocast(self, *, shares: bool = True) -> torch.autocast:
        """The autocast context of a forward pass; disabled without mixed precision.

        shares: several uses of a weight share one rounded copy. All threads of a process share
        them, and a thread that leaves its autocast drops all of them. So where two threads run,
        sharing would depend on which one is faster, and with it the rounding of the gradients.
        """
        return torch.autocast(
            self.device.type,
            dtype=self.amp_dtype or torch.bfloat16,
            enabled=self.amp_dtype is not None,
            cache_enabled=shares,
        )

    @property
    def amp_name(self) -> str:
        """`bf16`, `fp16` or `off`."""
        return PRECISIONS[self.amp_dtype] if self.amp_dtype else "off"

    @property
    def line(self) -> str:
        """Device, precision and operators in words."""
        return (
            f"device {describe(self.device)} · "
            f"precision {PRECISIONS[self.amp_dtype]} (amp {self.amp_reason}{self.tf32}) · "
            f"kernels {self.kernels}{older_gpu(self.device, self.kernels)} · "
            f"compile {self.compile} · {self.cudnn}{self.fused}"
            f"allocator {'tuned' if self.tuned else 'default'}"
        )


def describe_runtime(config: RuntimeConfig) -> Runtime:
    """Choose device, precision and operators. Changes nothing.

    Raises UserError for a device or an operator implementation that is not available, or for fused
    convolutions on a CPU.
    """
    device = choose_device(config.device)
    for flag, asked in (
        (f"--fused-convolutions {config.fused_convolutions}", config.fused_convolutions != "off"),
        ("--fused-batch-norm", config.fused_batch_norm),
    ):
        if asked and device.type != "cuda":
            raise UserError(f"{flag} needs a GPU, and the device is {device}; leave it out")
    amp_dtype, amp_reason = choose_amp(device) if config.amp else (None, "not asked for")
    try:
        implementation = kernels.resolve(device, config.kernels)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"runtime.kernels: {error}") from None
    return Runtime(
        device=device,
        amp_dtype=amp_dtype,
        amp_reason=amp_reason,
        kernels=implementation,
        tf32=describe_tf32(config.tf32, device),
        compile=config.compile_mode if config.compile else "off",
        tuned=config.tune_allocator
        and device.type == "cpu"
        and native_library.unavailable() is None,
        fused=describe_fused(config, amp_dtype, implementation) if device.type == "cuda" else "",
    )


def setup_runtime(config: RuntimeConfig, *, fixed_shapes: bool = False) -> Runtime:
    """`describe_runtime`, and set up this process.

    Operators, TF32 and, on a CPU, malloc. On CUDA the device becomes the current one, where Triton
    launches. fixed_shapes: the images of a run have few sizes, so that cuDNN may time its
    algorithms for each.
    """
    runtime = describe_runtime(config)
    kernels.use(config.kernels)
    kernels.use_fused(config.fused_convolutions)
    kernels.use_fused_batch_norm(config.fused_batch_norm)
    make_current(runtime.device)
    if runtime.device.type == "cuda":
        if config.tf32 is not None:
            set_tf32(config.tf32)
        if fixed_shapes:
            torch.backends.cudnn.benchmark = config.cudnn_benchmark
            runtime = replace(runtime, cudnn=describe_cudnn(config.cudnn_benchmark))
    tuned = runtime.tuned and native_library.tune_allocator(reuse=True)
    return replace(runtime, tuned=tuned)


def make_current(device: torch.device) -> None:
    """Make a GPU the one where Triton launches and events are recorded; `cuda` alone is it already.

    Triton launches on the current device, whatever device its tensors are on.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def set_tf32(wanted: bool) -> None:
    """Allow or forbid TF32 for this process's fp32 matrix products and convolutions on CUDA."""
    torch.backends.cuda.matmul.allow_tf32 = wanted
    torch.backends.cudnn.allow_tf32 = wanted


def describe_tf32(wanted: bool | None, device: torch.device) -> str:
    """Where TF32 is used, for the heading of a run; empty on a CPU, which has none."""
    if device.type != "cuda":
        return "" if wanted is None else "; tf32 exists on CUDA only, kept off"
    current = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    allowed = current if wanted is None else (wanted, wanted)
    names = {(True, True): "on", (True, False): "convolutions", (False, False): "off"}
    return f"; tf32 {names.get(allowed, 'matrix products')}"


def describe_cudnn(benchmark: bool) -> str:
    """How cuDNN chooses among its convolution algorithms, for the heading of a run."""
    if benchmark:
        return "cudnn.benchmark on (sizes are fixed: algorithms are timed once) · "
    return "cudnn.benchmark off (not asked for) · "


def describe_fused(
    config: RuntimeConfig, amp_dtype: torch.dtype | None, implementation: str
) -> str:
    """Which convolutions and norms run with what follows them, for the heading of a run."""
    choice, norm = config.fused_convolutions, config.fused_batch_norm
    if choice == "off" and not norm:
        return "fused convolutions and batch norm off (not asked for) · "
    if implementation != "triton":
        return "fused convolutions and batch norm off (they need the Triton kernels) · "
    if config.compile:
        return "fused convolutions and batch norm off (--compile fuses them itself) · "
    how = ""
    if choice == "timed":
        how = " (each size in the first step)"
    if choice != "off" and amp_dtype is None:
        choice, how = "off", " (they need --amp)"
    return f"fused convolutions {choice}{how}, batch norm {'on' if norm else 'off'} · "


def older_gpu(device: torch.device, implementation: str) -> str:
    """A GPU that the Triton kernels are not written for, in words; empty for every other device."""
    if device.type != "cuda":
        return ""
    capability = torch.cuda.get_device_capability(device)
    if capability >= kernels.OLDEST_CAPABILITY:
        return ""
    both = (capability, kernels.OLDEST_CAPABILITY)
    name, oldest = (f"sm_{major}{minor}" for major, minor in both)
    if implementation == "triton":
        return f" (as asked for; untested on {name}, they are written for {oldest} and newer)"
    return f" (this GPU is {name}; the Triton kernels are written for {oldest} and newer)"


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is CUDA where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: unknown device {name!r}; use auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device: {name!r} is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device: {name!r} does not exist, PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices; see `fastass doctor`"
        )
    return device


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    isa = torch.backends.cpu.get_cpu_capability()
    return f"cpu ({torch.get_num_threads()} threads, {isa})"


def choose_amp(device: torch.device) -> tuple[torch.dtype | None, str]:
    """The dtype of mixed precision on a device (None: stays fp32), and the reason."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "by the GPU's bf16 units"
        return torch.float16, "with loss scaling: this GPU has no bf16 units"
    if cpu_has_bf16():
        return torch.bfloat16, "by the CPU's bf16 instructions"
    return None, "kept off: this CPU has no bf16 instructions, bf16 would be slower than fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 instructions (AVX-512 BF16 or AMX); emulation does not count."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
