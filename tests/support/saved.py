"""Checkpoints of a tiny module."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastass.checkpoint.files import save_checkpoint
from fastass.checkpoint.pointers import CLASSES, CONFIG


def module(width: int = 3) -> nn.Module:
    torch.manual_seed(width)
    return nn.ModuleDict({"generator": nn.Linear(2, width), "other": nn.Linear(2, 2)})


def save(run: Path, step: int, *links: str, width: int = 3) -> Path:
    texts = {CONFIG: "steps: 1\n", CLASSES: "{}"}
    state: dict[str, Any] = {"engine": {}, "position": {}}
    weights = dict(module(width).state_dict())
    return save_checkpoint(run, step, weights, state, texts, ("last", *links))
