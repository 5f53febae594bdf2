"""Norm statistics taken anew from one domain."""

import json
from pathlib import Path

import pytest
import torch

from fastass.cli.main import main
from fastass.config.schema import RuntimeConfig
from fastass.errors import UserError
from fastass.evaluation.adabn import reestimate
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab
from fastass.pipelines.loaders.evaluation import EvalBatch
from fastass.runtime.device import setup_runtime

RUNTIME = setup_runtime(RuntimeConfig(device="cpu", kernels="reference"))


def batches(shift: float) -> list[EvalBatch]:
    torch.manual_seed(0)
    images = torch.randn(2, 2, 3, 32, 64) + shift
    return [EvalBatch(each, None, (64, 32), ("a", "b")) for each in images]


def test_statistics_are_the_average_over_the_batches() -> None:
    generator = build_deeplab(ModelConfig(backbone="tiny")).eval()
    before = {name: p.clone() for name, p in generator.named_parameters()}
    assert reestimate(generator, batches(3.0), RUNTIME) == 2
    first = next(m for m in generator.modules() if isinstance(m, torch.nn.BatchNorm2d))
    conv = next(m for m in generator.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        seen = [conv(batch.images) for batch in batches(3.0)]
    wanted = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, wanted, rtol=1e-4, atol=1e-4)
    assert first.momentum == 0.1
    assert not generator.training
    assert all(torch.equal(before[name], p) for name, p in generator.named_parameters())


def test_a_network_without_statistics_is_told() -> None:
    frozen = build_deeplab(ModelConfig(backbone="tiny", norm="frozen"))
    with pytest.raises(UserError, match="no running statistics"):
        reestimate(frozen, [], RUNTIME)


def test_eval_takes_them_from_a_folder(trained: Path, city: Path, tmp_path: Path) -> None:
    scores = []
    for extra in ([], ["--norm-from", str(city / "cityscapes")]):
        file = tmp_path / "scores.json"
        data = str(city / "cityscapes")
        assert main(["eval", str(trained), "--data", data, "--json", str(file), *extra]) == 0
        scores.append(json.loads(file.read_text())["confusion"])
    assert scores[0] != scores[1]
