"""The choice of implementation: explicit, by device, never a silent fallback."""

import sys

import pytest
import torch

from fastass import kernels
from fastass.kernels import dispatch, native_library

CPU, CUDA, OTHER = torch.device("cpu"), torch.device("cuda"), torch.device("meta")


def test_auto_goes_by_device() -> None:
    kernels.use("auto")
    assert kernels.choice() == "auto"
    assert kernels.resolve(CPU) == "native"
    assert kernels.resolve(CUDA) == "triton"
    with pytest.raises(RuntimeError, match="no implementation for meta tensors"):
        kernels.resolve(OTHER)


def test_reference_runs_anywhere_but_only_when_asked_for() -> None:
    kernels.use("reference")
    assert {kernels.resolve(device) for device in (CPU, CUDA, OTHER)} == {"reference"}


def test_explicit_choice_on_the_wrong_device_is_an_error() -> None:
    kernels.use("native")
    assert kernels.resolve(CPU) == "native"
    with pytest.raises(RuntimeError, match="kernels=native does not run on cuda tensors"):
        kernels.resolve(CUDA)


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="kernels: got 'fast', expected one of auto, reference"):
        kernels.use("fast")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_triton_without_a_gpu_is_refused() -> None:
    assert kernels.available()["triton"] == "no CUDA device"
    with pytest.raises(RuntimeError, match="kernels=triton cannot run here: no CUDA device"):
        kernels.use("triton")
    assert kernels.choice() == "auto"


def test_triton_that_cannot_be_imported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match="kernels=triton cannot run here: triton cannot be impo"):
        kernels.use("triton")
    kernels.use("native")  # what was not asked for need not run


def test_missing_library_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_library, "candidates", list)
    native_library.library.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"kernels=native cannot run here.*pip install -e"):
            kernels.use("native")
        # auto stays auto on the CPU: the first call says what is missing, nothing runs instead
        assert dispatch.resolve(CPU) == "native"
        scores, labels = torch.zeros(1, 2, 3, 3), torch.zeros(1, 9, 9, dtype=torch.uint8)
        monkeypatch.setattr(native_library, "_routine", native_library._routine.__wrapped__)
        with pytest.raises(RuntimeError, match="is missing from fastass/kernels"):
            kernels.upsample_confusion(scores, labels, align_corners=True)
    finally:
        native_library.library.cache_clear()
