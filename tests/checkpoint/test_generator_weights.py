"""The generator of a checkpoint: its average, and the target's running statistics."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fastass.checkpoint import files
from fastass.checkpoint.files import save_checkpoint
from fastass.models.domain_statistics import TargetStatistics


class Training(nn.Module):
    """As a run's module: the generator, its average, and the target's statistics of both."""

    def __init__(self, *, average: bool) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.BatchNorm2d(2))
        self.target_statistics = TargetStatistics(self.generator)
        if average:
            self.average = nn.Sequential(nn.BatchNorm2d(2))
            self.average_target_statistics = TargetStatistics(self.average)


def filled(average: bool) -> dict[str, torch.Tensor]:
    state = Training(average=average).state_dict()
    return {name: torch.full_like(v, i) for i, (name, v) in enumerate(state.items())}


@pytest.mark.parametrize("average", [False, True])
def test_an_older_checkpoint_gets_the_mixed_statistics(average: bool) -> None:
    training, weights = Training(average=average), filled(average)
    before = dict(weights)
    assert not files.add_target_statistics(weights, training)
    assert weights == before
    older = {name: v for name, v in weights.items() if "target_statistics." not in name}
    missing = weights.keys() - older.keys()
    assert missing
    assert files.add_target_statistics(older, training)
    assert older.keys() == weights.keys()
    for name in missing:
        own = name.replace("average_target_statistics.", "average.")
        own = own.replace("target_statistics.", "generator.")
        assert torch.equal(older[name], older[own])
        assert older[name].data_ptr() != older[own].data_ptr()
    assert not files.add_target_statistics({}, nn.Linear(1, 1))


@pytest.mark.parametrize("average", [False, True])
def test_the_average_is_loaded_where_there_is_one(tmp_path: Path, average: bool) -> None:
    weights = filled(average)
    path = save_checkpoint(tmp_path, 1, weights, {}, {})
    prefix = "average" if average else "generator"
    statistics = "average_target_statistics" if average else "target_statistics"
    own, theirs = files.generator_weights(path)
    assert all(torch.equal(v, weights[f"{prefix}.{name}"]) for name, v in own.items())
    assert all(torch.equal(v, weights[f"{statistics}.{name}"]) for name, v in theirs.items())
    assert len(own) == 5
    assert len(theirs) == 2

    generator = nn.Sequential(nn.BatchNorm2d(2))
    found = files.load_generator(generator, path)
    assert found is not None
    assert torch.equal(generator.state_dict()["0.running_mean"], own["0.running_mean"])
    assert torch.equal(found.state_dict()["0.running_mean"], theirs["0.running_mean"])
    without = {name: v for name, v in weights.items() if "target_statistics." not in name}
    assert files.load_generator(generator, save_checkpoint(tmp_path, 2, without, {}, {})) is None
