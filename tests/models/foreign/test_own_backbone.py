"""Backbones by import path; the class is the one of docs/plug-in.md."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_blocks import ROOT
from tiny_runs import SMALL

import fastass
from fastass.errors import UserError
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.models.foreign.choose import pretrained_weights

PAGE = (ROOT / "docs" / "plug-in.md").read_text(encoding="utf-8")


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of the page's first example, importable."""
    block = re.search(r"```python\n(.*?class SmallNet.*?)```", PAGE, re.S)
    assert block is not None
    (tmp_path / "own_backbone.py").write_text(block[1] + "\ndef function(config): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_backbone", raising=False)
    return "own_backbone:SmallNet"


def test_features(name: str) -> None:
    network = build_deeplab(ModelConfig(backbone=name, num_classes=5, heads="multi"))
    out = network(torch.rand(2, 3, 64, 96))
    assert out.features.shape == (2, 64, 8, 12)
    assert out.aux_scores is not None
    assert out.aux_scores.shape == (2, 5, 8, 12)
    assert len(network.backbone.layers()) == 2


def test_train_and_load(name: str, city: Path, tmp_path: Path) -> None:
    data = {"data.source": str(city / "gta5"), "data.target": str(city / "cityscapes")}
    words: dict[str, Any] = {**SMALL, **data, "backbone": name, "init": "none", "plain": True}
    summary = fastass.train("toycity", out=tmp_path / "run", norm_statistics="domain", **words)
    assert summary["per_class_iou"]
    network = fastass.load(tmp_path / "run", device="cpu")
    assert network.other_statistics is not None
    assert network.other_statistics.differ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere_to_be_found:X", "No module named 'nowhere_to_be_found'; is the module installed"),
        ("own_backbone:Missing", "has no attribute 'Missing'"),
        ("own_backbone:function", "expected a subclass of fastass.models.backbone.Backbone"),
        ("os:system", "expected a subclass"),
    ],
)
def test_what_is_refused(name: str, given: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_deeplab(ModelConfig(backbone=given))


def test_what_does_not_go_together(name: str) -> None:
    with pytest.raises(UserError, match="would have to do it itself"):
        build_deeplab(ModelConfig(backbone=name, checkpoint_activations=True))
    with pytest.raises(UserError, match="loads its weights when it is built; use --init none"):
        pretrained_weights(name)
