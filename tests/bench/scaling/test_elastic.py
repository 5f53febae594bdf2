"""The elastic prototype: killed replicas cost at most a step each, and newcomers catch up."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from fastass.bench.scaling import elastic
from fastass.bench.scaling.elastic_replica import GLOBAL_BATCH, gradients, share, small
from fastass.method.adaptation import method_spec
from fastass.runtime.process_group import SINGLE_PROCESS
from fastass.training.step import build


def test_shares_divide_the_batch() -> None:
    whole = share(5, 0, 1)
    parts = [share(5, member, 3) for member in range(3)]
    assert whole.source is not None
    assert whole.source.images.shape[0] == GLOBAL_BATCH
    firsts = [part.source.images[0] for part in parts if part.source is not None]
    for first, image in zip(firsts, whole.source.images, strict=False):
        assert torch.equal(first, image)
    assert not torch.equal(share(6, 0, 1).source.images, whole.source.images)  # type: ignore[union-attr]


def test_the_undisturbed_losses_are_those_of_the_whole_batch() -> None:
    found = elastic.undisturbed(2)
    config = small()
    module = build(config, method_spec(config.method, GLOBAL_BATCH, False))
    assert found[0] == float(gradients(module, config, share(0, 0, 1), SINGLE_PROCESS))
    assert found[1] != found[0]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    assert elastic.records(log) == []
    log.write_text(json.dumps({"step": 1}) + '\n{"step": 2, "me')
    assert elastic.records(log) == [{"step": 1}]


@pytest.mark.slow
def test_random_kills(capsys: pytest.CaptureFixture[str]) -> None:
    if find_spec("torchft") is None:
        pytest.skip("torchft is not installed")
    assert elastic.main(["--replicas", "3", "--kills", "5"]) == 0
    assert "3 replicas, 5 kills" in capsys.readouterr().out
