"""The running average of the weights: its formula, its statistics, its counters."""

import pytest
import torch
from torch import nn

from fastass.models import ema
from fastass.models.config import ModelConfig
from fastass.models.deeplab import build_deeplab


def one_weight(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


@pytest.mark.parametrize(
    ("decay", "updates", "d"),
    [
        (0.999, 0, 1 / 10),
        (0.999, 1, 2 / 11),
        (0.999, 8, 9 / 18),
        (0.9, 71, 72 / 81),  # 0.889: the last rises before `decay` takes over
        (0.9, 89, 0.9),  # (1 + n) / (10 + n) would be 0.909
        (0.25, 1000, 0.25),
    ],
)
def test_the_average_is_d_times_itself_plus_the_rest_of_the_weights(
    decay: float, updates: int, d: float
) -> None:
    average, generator = one_weight(10.0), one_weight(20.0)
    ema.update(average, generator, ema.weight(decay, updates))
    assert average.weight.item() == pytest.approx(10 * d + 20 * (1 - d), rel=1e-6)
    assert generator.weight.item() == 20.0


def test_running_statistics_are_averaged_and_counters_copied() -> None:
    generator = build_deeplab(ModelConfig(backbone="tiny", norm="batch"))
    average = ema.average_of(generator)
    mean = generator.get_buffer("backbone.bn1.running_mean")
    for _ in range(3):
        generator.train()(torch.randn(1, 3, 32, 32))
    assert mean.abs().max() > 0
    ema.update(average, generator, ema.weight(0.99, 0))
    assert average.get_buffer("backbone.bn1.num_batches_tracked") == 3
    torch.testing.assert_close(average.get_buffer("backbone.bn1.running_mean"), 0.9 * mean)


def test_the_average_is_a_copy_that_nothing_trains() -> None:
    generator = build_deeplab(ModelConfig(backbone="tiny"))
    average = ema.average_of(generator)
    assert all(p.requires_grad for p in generator.parameters())
    assert not any(p.requires_grad for p in average.parameters())
    for (name, own), theirs in zip(average.named_parameters(), generator.parameters(), strict=True):
        assert torch.equal(own, theirs), name
        assert own.data_ptr() != theirs.data_ptr(), name


def test_a_weight_that_is_a_tensor_is_read_when_the_update_runs() -> None:
    average, generator = one_weight(10.0), one_weight(20.0)
    weight = torch.tensor(0.25)
    ema.update(average, generator, weight)
    assert average.weight.item() == 12.5
    with torch.inference_mode():
        weight.fill_(0.5)
    ema.update(average, generator, weight)
    assert average.weight.item() == 16.25
