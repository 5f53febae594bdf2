"""What a run sets up for its GPU, on a machine that only claims to have one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fastass import kernels
from fastass.bench.first_contact import machine, stages
from fastass.config.schema import RuntimeConfig
from fastass.errors import UserError
from fastass.kernels import dispatch
from fastass.kernels.convolution.fused import choice
from fastass.kernels.convolution.norm import op
from fastass.runtime.device import setup_runtime


class Claimed:
    """Two GPUs as `torch.cuda` describes them; `current` is what set_device chose."""

    capability = (9, 0)
    current: list[torch.device]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[Claimed]:
    claimed, choice = Claimed(), kernels.choice()
    claimed.current = []
    answers = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_name": lambda device: "a GPU",
        "get_device_capability": lambda device: claimed.capability,
        "is_bf16_supported": lambda including_emulation=True: claimed.capability >= (8, 0),
        "set_device": claimed.current.append,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(dispatch, "_older", {})
    pytest.importorskip("triton")
    yield claimed
    kernels.use(choice)


def test_the_device_of_a_run_is_the_current_one(gpus: Claimed) -> None:
    """Triton launches on the current device, whatever device its tensors are on."""
    setup_runtime(RuntimeConfig(device="cuda:1"))
    assert gpus.current == [torch.device("cuda:1")]


def test_a_stage_of_first_contact_runs_on_its_device(
    gpus: Claimed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tests and timers know the current device alone."""
    ran: list[object] = []
    monkeypatch.setattr(machine, "machine", ran.append)
    assert stages.main(["machine", "--out", str(tmp_path), "--device", "cuda:1"]) == 0
    assert gpus.current == [torch.device("cuda:1")]
    assert len(ran) == 1


@pytest.mark.parametrize("wanted", [True, False])
def test_cudnn_times_its_algorithms_for_fixed_sizes(gpus: Claimed, wanted: bool) -> None:
    runtime = setup_runtime(RuntimeConfig(device="cuda", cudnn_benchmark=wanted), fixed_shapes=True)
    assert torch.backends.cudnn.benchmark is wanted
    assert f"cudnn.benchmark {'on' if wanted else 'off'}" in runtime.line


def test_cudnn_is_left_alone_where_sizes_vary_and_on_a_cpu(gpus: Claimed) -> None:
    assert "cudnn" not in setup_runtime(RuntimeConfig(device="cuda")).line
    assert "cudnn" not in setup_runtime(RuntimeConfig(device="cpu"), fixed_shapes=True).line
    assert torch.backends.cudnn.benchmark is False
    assert gpus.current == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "fused convolutions and batch norm off (not asked for)"),
        (
            {"fused_convolutions": "timed", "amp": True},
            "timed (each size in the first step)",
        ),
        ({"fused_convolutions": "on", "fused_batch_norm": True, "amp": True}, "on, batch norm on"),
        ({"fused_convolutions": "on"}, "fused convolutions off (they need --amp), batch norm off"),
        ({"fused_batch_norm": True}, "fused convolutions off, batch norm on"),
        ({"fused_batch_norm": True, "compile": True}, "off (--compile fuses them itself)"),
        ({"fused_batch_norm": True, "kernels": "reference"}, "off (they need the Triton kernels)"),
    ],
)
def test_the_heading_says_what_is_fused(gpus: Claimed, values: dict[str, Any], said: str) -> None:
    try:
        assert said in setup_runtime(RuntimeConfig(device="cuda", **values)).line
        assert choice.is_fused() == ("fused_convolutions" in values)
        assert op._used == ("fused_batch_norm" in values)
    finally:
        setup_runtime(RuntimeConfig(device="cuda"))
    assert not choice.is_fused()
    assert not op._used


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ({"fused_convolutions": "timed"}, "--fused-convolutions timed"),
        ({"fused_batch_norm": True}, "--fused-batch-norm"),
    ],
)
def test_fused_forms_need_a_gpu(values: dict[str, Any], flag: str) -> None:
    with pytest.raises(
        UserError, match=f"^{flag} needs a GPU, and the device is cpu; leave it out"
    ):
        setup_runtime(RuntimeConfig(device="cpu", **values))


def test_an_older_gpu_runs_the_reference_and_the_run_says_so(gpus: Claimed) -> None:
    gpus.capability = (7, 5)
    runtime = setup_runtime(RuntimeConfig(device="cuda", amp=True))
    assert runtime.kernels == kernels.resolve(torch.device("cuda", 1)) == "reference"
    assert "kernels reference (this GPU is sm_75; the Triton kernels are written for sm_80" in (
        runtime.line
    )
    assert "precision fp16" in runtime.line


def test_triton_on_an_older_gpu_has_to_be_asked_for(gpus: Claimed) -> None:
    gpus.capability = (7, 5)
    line = setup_runtime(RuntimeConfig(device="cuda", kernels="triton")).line
    assert "kernels triton (as asked for; untested on sm_75" in line


def test_a_newer_gpu_needs_no_remark(gpus: Claimed) -> None:
    assert "kernels triton · " in setup_runtime(RuntimeConfig(device="cuda")).line
