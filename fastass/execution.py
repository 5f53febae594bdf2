"""What a run executes on: device, precision, operators; chosen openly, never silently."""

from dataclasses import dataclass

import torch

from fastass import apex_optimizers, kernels
from fastass.config.schema import Config
from fastass.errors import UserError
from fastass.kernels import native

# What a forward pass computes in, by the autocast dtype; None is no autocast.
PRECISIONS = {torch.bfloat16: "bf16", torch.float16: "fp16", None: "fp32"}


@dataclass(frozen=True)
class Execution:
    """The choice, and the line that tells it at the start of training."""

    device: torch.device
    amp_dtype: torch.dtype | None
    kernels: str
    line: str
    tuned: bool = False  # this process's allocator

    def autocast(self) -> torch.autocast:
        """The autocast context of a forward pass; disabled without mixed precision."""
        return torch.autocast(
            self.device.type,
            dtype=self.amp_dtype or torch.bfloat16,
            enabled=self.amp_dtype is not None,
        )

    @property
    def amp_name(self) -> str:
        """`bf16`, `fp16` or `off`."""
        return PRECISIONS[self.amp_dtype] if self.amp_dtype else "off"


def choose(config: Config) -> Execution:
    """Device, precision and operators of a configuration.

    On a CPU it also tunes this process's allocator. Raises UserError for a device or an operator
    implementation that is not there.
    """
    device = choose_device(config.device)
    amp_dtype, why = choose_amp(device) if config.amp else (None, "not asked for")
    implementation = use_kernels(config.kernels, device)
    tune = config.tune_allocator and device.type == "cpu" and native.unavailable() is None
    tuned = tune and native.tune_allocator(reuse=True)
    precision = f"{PRECISIONS[amp_dtype]} (amp {why}{choose_tf32(config.tf32, device)})"
    line = (
        f"device {describe(device)} · precision {precision} · "
        f"kernels {implementation} · compile {config.compile_mode if config.compile else 'off'} · "
        f"optimizers {choose_optimizers(config, device)} · "
        f"allocator {'tuned' if tuned else 'default'}"
    )
    return Execution(device, amp_dtype, implementation, line, tuned)


def choose_tf32(wanted: bool | None, device: torch.device) -> str:
    """Set what fp32 products of this process are computed in, and say it; a CPU has no TF32."""
    if device.type != "cuda":
        return "" if wanted is None else "; tf32 is CUDA's, kept off"
    if wanted is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    allowed = (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    names = {(True, True): "on", (True, False): "convolutions", (False, False): "off"}
    return f"; tf32 {names.get(allowed, 'matrix products')}"


def choose_optimizers(config: Config, device: torch.device) -> str:
    """Whose implementation of SGD and Adam runs. UserError for apex where it can't."""
    backend = config.optim.optimizer_backend
    if backend == "apex":
        reason = apex_optimizers.unavailable()
        if reason is None and device.type != "cuda":
            reason = f"its optimizers need CUDA, the device is {device}"
        if reason is not None:
            raise UserError(f"optim.optimizer_backend: {reason}; or use torch")
    return {"torch": "torch fused", "foreach": "torch foreach", "apex": "apex"}[backend]


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU."""
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
            f"device: {name!r} is not there: {torch.cuda.device_count()} CUDA devices found; "
            "see `fastass doctor`"
        )
    return device


def use_kernels(name: str, device: torch.device) -> str:
    """Select the operators and return the implementation that will run on `device`."""
    try:
        kernels.use(name)
        return kernels.resolve(device)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"kernels: {error}") from None


def describe(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    isa = torch.backends.cpu.get_cpu_capability()
    return f"cpu ({torch.get_num_threads()} threads, {isa})"


def choose_amp(device: torch.device) -> tuple[torch.dtype | None, str]:
    """What mixed precision computes in on a device (None: fp32 is kept), and why."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "by the GPU's bf16 units"
        return torch.float16, "with loss scaling: this GPU has no bf16 units"
    if cpu_has_bf16():
        return torch.bfloat16, "by the CPU's bf16 instructions"
    return None, "kept off: this CPU has no bf16 instructions, bf16 would be slower than fp32"


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 itself (AVX-512 BF16 or AMX); emulation does not count."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
