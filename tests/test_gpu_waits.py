"""The switch of the GPU tests that makes waiting an error, tried without a GPU."""

import warnings

import pytest
import torch
from child import ROOT
from gpu_host.waits import waiting_is_an_error


def test_the_first_use_warns_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def set_mode(mode: str) -> None:
        if not modes:  # as PyTorch does
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        modes.append(mode)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    with pytest.raises(KeyError), waiting_is_an_error():
        raise KeyError
    assert modes == ["error", "default"]


def test_no_test_sets_the_mode_itself() -> None:
    found = [
        path.name
        for path in (ROOT / "tests").rglob("*.py")
        if path.name != "test_gpu_waits.py"
        and "set_sync_debug_mode(" in path.read_text(encoding="utf-8")
    ]
    assert found == ["waits.py"]
