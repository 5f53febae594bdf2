"""Fixtures for interleaved, checked benchmarks of the operators.

A suite is `bench/test_<op>.py` and has one test for each pass of its operator:

    @pytest.mark.parametrize("passes", ["forward", "forward+backward"])
    def test_class_mean(contest, device, dtype, passes):
        def make_inputs(seed): ...                 # tuple of tensors on `device`
        sides = {
            "reference": lambda *inputs: ...,  # plain torch, the truth
            "compiled reference": ...,         # torch.compile of it; "compile" must be in its name
            "one-hot matmul": ...,             # the simple alternatives
            "fastass": ...,                    # ours; must have this name
        }
        contest(op="class_mean", passes=passes, sides=sides, make_inputs=make_inputs,
                bytes_moved=..., flops=..., rtol=..., atol=...)

A side is called with the inputs, runs the whole pass and returns a tuple of what it computed:
outputs, then gradients (torch.autograd.grad, so that `.grad` stays as it is). `contest` then

1. asserts that every side's tensors agree with the reference's: rtol, and atol in units of the
   largest magnitude of the reference's tensor; or `norm`, the norm of the difference relative to
   the reference's, where single elements may differ (a LeakyReLU's slope at zero);
2. measures the peak memory of one call of each side, beyond what was there before;
3. times all sides in interleaved rounds, over `INPUT_SETS` rotating input sets. On a CPU
   pytest-benchmark times "fastass"; the other sides run inside the same rounds, before it. On CUDA
   each side is timed by the GPU's clock, over `meters.CALLS` calls in a row;
4. measures the copy bandwidth (and, if `flops` is given, the highest rate of multiply-adds in
   `dtype`) of this run: the limit is max(bytes_moved / bandwidth, flops / rate). On a GPU
   `cycles`, the fewest clock cycles that its multiprocessors take together (`EXPONENTIALS` and
   `OPERATIONS` per cycle), count too.

All of it goes into the result file's `extra_info`, which `python -m bench.ops.table` prints.
Options: --device cpu|cuda, --rounds N, --no-compiled, --allocator tuned|default.
On a CPU the instruction set is that of the environment: FASTASS_CPU_ISA=avx2
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 compares all sides on AVX2 alone.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from fastass.runtime.openmp import wait_passively

wait_passively()  # before torch is loaded: its idle threads wait as they do in training

# isort: split
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from fastass.bench import meters  # noqa: E402
from fastass.bench.meters import CALLS, peak_of, per_call, synchronize  # noqa: E402
from fastass.kernels import native_library  # noqa: E402
from fastass.runtime.device import make_current  # noqa: E402

INPUT_SETS = 2
SECONDS = 40  # of interleaved rounds of one test
# Results a clock cycle of one multiprocessor of compute capability 9.0 (CUDA programming guide,
# arithmetic instructions): special functions; float32 additions, products, comparisons.
EXPONENTIALS, OPERATIONS = 16, 128
Side = Callable[..., Sequence[Tensor]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastass benchmarks")
    group.addoption("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    group.addoption("--rounds", type=int, default=0, help=f"rounds; 0: as many as fit {SECONDS} s")
    group.addoption("--no-compiled", action="store_true", help="leave torch.compile sides out")
    group.addoption("--allocator", choices=("tuned", "default"), default="tuned")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # torch.compile's own imports warn (torch 2.13); warnings are errors here.
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    device = torch.device(request.config.getoption("--device"))
    make_current(device)
    return device


@pytest.fixture(scope="session")
def dtype(device: torch.device) -> torch.dtype:
    """What the engine trains in: bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@pytest.fixture(scope="session", autouse=True)
def allocator(request: pytest.FixtureRequest, device: torch.device) -> str:
    """malloc's settings, the same for all sides; of no matter on a GPU."""
    return set_allocator(request.config.getoption("--allocator"), device)


def set_allocator(choice: str, device: torch.device) -> str:
    """Only a CPU needs the native library for it."""
    if device.type == "cuda":
        return "default"
    if choice == "tuned":
        native_library.tune_allocator(reuse=True)
    return choice


@pytest.fixture(scope="session")
def bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a large copy."""
    return meters.copy_bandwidth(device)


@pytest.fixture(scope="session")
def rate(device: torch.device, dtype: torch.dtype) -> float:
    """The highest rate of multiply-adds in `dtype`, in FLOP/s."""
    return meters.peak_rate(device, dtype)


def cycle_rate(device: torch.device) -> float:
    """Clock cycles a second of all multiprocessors of a GPU together, at its highest clock."""
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count * properties.clock_rate * 1e3  # kHz


class Contest(Protocol):
    def __call__(
        self,
        *,
        op: str,
        passes: str,
        sides: Mapping[str, Side],
        make_inputs: Callable[[int], tuple[Any, ...]],
        bytes_moved: int,
        flops: int = 0,
        cycles: float = 0,
        rtol: float = 0,
        atol: float = 0,
        norm: float = 0,
    ) -> None: ...


@pytest.fixture
def contest(
    request: pytest.FixtureRequest,
    benchmark: Any,
    device: torch.device,
    dtype: torch.dtype,
    allocator: str,
) -> Contest:
    """Checks and times all sides of one pass; see the top of this file."""

    def run(
        *,
        op: str,
        passes: str,
        sides: Mapping[str, Side],
        make_inputs: Callable[[int], tuple[Any, ...]],
        bytes_moved: int,
        flops: int = 0,
        cycles: float = 0,
        rtol: float = 0,
        atol: float = 0,
        norm: float = 0,
    ) -> None:
        if request.config.getoption("--no-compiled"):
            sides = {name: side for name, side in sides.items() if "compile" not in name}
        inputs = [make_inputs(seed) for seed in range(INPUT_SETS)]
        _check(sides, inputs[0], rtol, atol, norm)
        peak = {
            name: peak_of(lambda side=side: side(*inputs[0]), device)
            for name, side in sides.items()
        }
        # A GPU's calls are timed by its own clock, ours too.
        others = {name: side for name, side in sides.items() if name != "fastass"}
        timed_here = sides if device.type == "cuda" else others
        seconds: dict[str, list[float]] = {name: [] for name in timed_here}
        rounds = request.config.getoption("--rounds") or _rounds(sides, inputs[0], device)

        def setup() -> tuple[tuple[Any, ...], dict[str, Any]]:
            chosen = inputs[len(seconds["reference"]) % len(inputs)]
            for name, side in timed_here.items():
                seconds[name].append(per_call(lambda side=side: side(*chosen), device))
            synchronize(device)
            return chosen, {}

        def target(*chosen: Any) -> None:
            sides["fastass"](*chosen)
            synchronize(device)

        benchmark.group = f"{op} {passes}"
        benchmark.pedantic(target, setup=setup, rounds=rounds)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        median.setdefault("fastass", benchmark.stats.stats.median)
        bandwidth = request.getfixturevalue("bandwidth")
        limit = bytes_moved / bandwidth
        if flops:
            limit = max(limit, flops / request.getfixturevalue("rate"))
        if cycles and device.type == "cuda":
            limit = max(limit, cycles / cycle_rate(device))
        benchmark.extra_info.update(
            op=op,
            passes=passes,
            dtype=str(dtype).removeprefix("torch."),
            device=_device_name(device),
            threads=torch.get_num_threads(),
            isa=_instruction_sets(device),
            torch=torch.__version__,
            allocator=allocator,
            copy_bandwidth=bandwidth,
            limit_seconds=limit,
            sides={name: {"median": median[name], "peak": peak[name]} for name in sides},
        )
        request.node.user_properties.append(("operator", dict(benchmark.extra_info)))

    return run


def _check(
    sides: Mapping[str, Side], inputs: tuple[Any, ...], rtol: float, atol: float, norm: float
) -> None:
    expected = [tensor.detach() for tensor in sides["reference"](*inputs)]
    for name, side in sides.items():
        actual = side(*inputs)
        for position, (ours, truth) in enumerate(zip(actual, expected, strict=True)):
            if norm:
                difference = float((ours.detach().double() - truth.double()).norm())
                scale = float(truth.double().norm())
                assert difference <= norm * scale, f"{name!r}, tensor {position}: {difference}"
                continue
            torch.testing.assert_close(
                ours.detach(),
                truth,
                rtol=rtol,
                atol=atol * float(truth.abs().max()),
                check_dtype=False,
                msg=lambda text, name=name, position=position: (
                    f"side {name!r}, tensor {position}: {text}"
                ),
            )


def _rounds(sides: Mapping[str, Side], inputs: tuple[Any, ...], device: torch.device) -> int:
    one = sum(per_call(lambda side=side: side(*inputs), device) for side in sides.values())
    calls = CALLS if device.type == "cuda" else 1
    return max(5, min(101, int(SECONDS / (one * calls))))


def _instruction_sets(device: torch.device) -> str:
    """Ours, and that of torch's own CPU kernels."""
    if device.type == "cuda":
        return ""
    return f"{native_library.isa()}, torch {torch.backends.cpu.get_cpu_capability()}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "cpu"
