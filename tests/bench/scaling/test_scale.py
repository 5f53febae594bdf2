"""`fastass bench scale`: the model against values by hand, the command, CPU ranks."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from fastass.bench.scaling import ranks, scale
from fastass.bench.scaling.allreduce_model import Cluster, Link, fit, ring, tree
from fastass.bench.scaling.timeline import (
    MIB,
    Gradient,
    Recorder,
    Timeline,
    buckets,
    exposed,
    typical,
    uniform,
)
from fastass.cli.main import main
from fastass.config.schema import Config, DataConfig, DiscriminatorConfig
from fastass.errors import UserError
from fastass.models.config import ModelConfig

LINK = Link(alpha=10e-6, beta=1e-9)  # 10 µs, 1 GB/s
CLUSTER = Cluster(4, Link(1e-6, 1e-11), LINK)
WORDS = (
    "bench scale --backbone tiny --model-width 16 --discriminator-width 4 --discriminator-hidden 8 "
    "--source-size 64x48 --target-size 64x48 --device cpu --batch 1 --rounds 2 --warmup-rounds 1"
).split()


@pytest.mark.parametrize(
    ("ranks", "by_ring", "by_tree"),
    [
        (1, 0.0, 0.0),
        (2, 20e-6 + 1e-3, 20e-6 + 2e-3),  # 2·α + 1 MB; 2·α + 2 MB
        (4, 60e-6 + 1.5e-3, 40e-6 + 2e-3),  # 6·α + 3/2 MB; 4·α + 2 MB
        (5, 80e-6 + 1.6e-3, 60e-6 + 2e-3),  # ⌈log₂ 5⌉ = 3
        (1024, 20.46e-3 + 2046 / 1024 * 1e-3, 200e-6 + 2e-3),
    ],
)
def test_a_megabyte_by_ring_and_by_tree(ranks: int, by_ring: float, by_tree: float) -> None:
    assert ring(1e6, ranks, LINK) == pytest.approx(by_ring, abs=1e-12)
    assert tree(1e6, ranks, LINK) == pytest.approx(by_tree, abs=1e-12)


def test_two_levels() -> None:
    # Inside: 6 µs + 3/2 MB at 100 GB/s = 15 µs. Between 3 nodes a quarter of it: 40 µs + 1/3 ms.
    assert CLUSTER.nodes(12) == 3
    assert CLUSTER.all_reduce(1e6, 12, ring) == pytest.approx(21e-6 + 40e-6 + 1e-3 / 3)
    assert CLUSTER.all_reduce(1e6, 12, tree) == pytest.approx(21e-6 + 40e-6 + 0.5e-3)
    assert CLUSTER.all_reduce(1e6, 4, tree) == pytest.approx(21e-6)  # a node alone: no network
    assert CLUSTER.all_reduce(1e6, 1, ring) == 0


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_fit_finds_the_link(ranks: int) -> None:
    sizes = (4096, 2**16, 2**20, 2**24)
    link, error = fit([(n, ring(n, ranks, LINK)) for n in sizes], ranks)
    assert (link.alpha, link.beta) == pytest.approx((LINK.alpha, LINK.beta), rel=1e-6)
    assert error < 1e-6
    noisy = [(n, (0.9 if n > 2**18 else 1.1) * ring(n, ranks, LINK)) for n in sizes]
    link, error = fit(noisy, ranks)
    assert link.beta == pytest.approx(0.9 * LINK.beta, rel=0.1)
    assert 0 < error < 0.15


def test_a_fit_is_never_negative() -> None:
    link, _ = fit([(4096, 1e-6), (8192, 4e-6), (16384, 16e-6)], 2)  # faster than linear
    assert link.alpha == 0
    assert link.beta > 0


def test_buckets_close_with_the_gradient_that_fills_them() -> None:
    sizes = (0.5, 0.75, 2.0, 4.0, 1.0)  # MiB
    gradients = tuple(Gradient(n * MIB, 0.1 * i) for i, n in enumerate(sizes))
    found = buckets(Timeline(1.0, gradients), 5 * MIB)
    assert [(b.size / MIB, b.ready) for b in found] == [(1.25, 0.1), (6.0, 0.1 * 3), (1.0, 0.4)]
    halved = buckets(Timeline(1.0, gradients), 5 * MIB, 0.5)
    assert [b.size for b in halved] == [b.size / 2 for b in found]


def test_what_the_backward_does_not_hide() -> None:
    parts = [Gradient(1, 1.0), Gradient(2, 2.0), Gradient(1, 3.0)]
    assert exposed(parts, lambda n: 0.1 * n) == pytest.approx(0.1)  # all but the last are hidden
    # 1…2, 2…4, 4…5: two seconds after the backward's end at 3.
    assert exposed(parts, lambda n: 1.0 * n) == pytest.approx(2.0)
    assert exposed(parts, lambda n: 0.0) == 0


def test_a_given_step() -> None:
    timeline = uniform(0.2, 64 * MIB, 0.5)
    assert timeline.size == pytest.approx(64 * MIB)
    assert timeline.gradients[-1].ready == pytest.approx(0.2)
    assert timeline.gradients[127].ready == pytest.approx(0.15)  # half of them
    assert timeline.backward_share == pytest.approx(0.5, abs=0.01)


def test_efficiency_by_hand() -> None:
    """One bucket of 0.5 MiB complete at the end: nothing is hidden."""
    timeline = Timeline(0.1, (Gradient(MIB / 2, 0.08),))
    for compress, n in ((False, MIB / 2), (True, MIB / 4)):
        rows = scale.predict(timeline, CLUSTER, (4, 8), limit=MIB, compress=compress)
        assert [(r.gpus, r.nodes, r.algorithm) for r in rows] == [
            (4, 1, "ring"),
            (4, 1, "tree"),
            (8, 2, "ring"),
            (8, 2, "tree"),
        ]
        for row in rows:
            # six messages inside, two between nodes, for the gradients and for the counts
            longer = 2 * 6e-6 + 1.5e-11 * (n + scale.COUNTS)
            if row.nodes > 1:
                share = 1 if row.algorithm == "ring" else 2
                longer += 2 * 20e-6 + share * (n + scale.COUNTS) / 4 * 1e-9
            assert row.exposed == pytest.approx(longer)
            assert row.exchange == pytest.approx(longer)
            assert row.efficiency == pytest.approx(0.1 / (0.1 + longer))


def test_more_gpus_never_help_the_efficiency() -> None:
    gpus = [2**k for k in range(13)]
    rows = scale.predict(uniform(0.1, 170 * MIB, 0.5), CLUSTER, gpus, limit=25 * MIB, compress=True)
    for name in ("ring", "tree"):
        efficiencies = [r.efficiency for r in rows if r.algorithm == name]
        assert efficiencies == sorted(efficiencies, reverse=True)
        assert efficiencies[0] == 1


def test_the_recorder_sees_gradients_in_the_order_of_the_backward() -> None:
    layers = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False))
    layers[0].weight.requires_grad_(True)
    recorder = Recorder(layers, torch.device("cpu"))

    def step() -> None:
        for _ in range(2):  # the last backward counts
            layers(torch.ones(1, 4)).sum().backward()

    timeline = recorder.record(step)
    assert [g.size for g in timeline.gradients] == [64, 128]
    first, last = (g.ready for g in timeline.gradients)
    assert 0 < first < last < timeline.seconds


def test_the_typical_step_is_the_median() -> None:
    steps = [Timeline(t, ()) for t in (3.0, 1.0, 2.0, 9.0)]
    assert typical(steps).seconds == 2.0


def lines(text: str, first: str) -> Sequence[list[str]]:
    tables = (line.strip("|").split("|") for line in text.splitlines() if line.startswith("|"))
    rows = [[cell.strip() for cell in cells] for cells in tables]
    return [row for row in rows if row[0] == first]


def test_a_given_step_needs_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "scale.json"
    words = "bench scale --step-ms 100 --gradient-mib 170 --gpus 8,64 --json".split()
    assert main([*words, str(file)]) == 0
    printed = capsys.readouterr().out
    assert "a step of 100 ms, as given" in printed
    assert "inside a node of 8 GPUs: α 3.4 µs, 360 GB/s" in printed
    assert len(lines(printed, "64")) == 1
    result = json.loads(file.read_text())
    assert result["step_seconds"] == 0.1
    assert len(result["predicted"]) == 4
    assert "checked" not in result


def test_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With two ranks; a quick step, so only the form of the numbers is tested."""
    file = tmp_path / "scale.json"
    assert main([*WORDS, "--ranks", "2", "--gpus", "8", "--json", str(file)]) == 0
    result = json.loads(file.read_text())
    (row,) = result["checked"]
    assert row["ranks"] == 2
    assert row["beta"] > 0
    assert 0 < row["alone"] < row["hidden"] <= row["added"]
    assert row["measured"] > 0
    assert result["gradient_bytes"] > 1e4
    assert len(lines(capsys.readouterr().out, "2")) == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--step-ms 100", "--gradient-mib: expected more than 0, got None"),
        ("--step-ms 1 --gradient-mib 1 --backward-share 2", "at most 1, got 2.0"),
        ("--gpus 12", "--gpus: 12 are not whole nodes of 8"),
        ("--ranks 0", "--ranks: expected at least 1, got 0"),
        ("--inter-gbs 0", "--inter-gbs: expected more than 0"),
        ("--intra-us -1", "--intra-us: expected 0 or more"),
    ],
)
def test_wrong_values(words: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "scale", *words.split()]) == 2
    assert reason in capsys.readouterr().err


def test_a_rank_that_fails_says_why() -> None:
    config = Config(
        model=ModelConfig(backbone="tiny"),
        data=DataConfig(source_size=(64, 48), target_size=(64, 16)),  # too low for D_g
        discriminator=DiscriminatorConfig(width=4, hidden=8),
    ).resolved()
    with pytest.raises(
        UserError, match=r"bench: rank \d: .*too small for five convolutions of stride 2"
    ):
        ranks.measure(1, config, 1, 0)


def test_a_group_of_one_rank_is_the_overhead() -> None:
    row = partial(
        scale.Check, alpha=0.0, beta=0.0, fit_error=0.0, hidden=1.0, added=1.5, overlaps=False
    )
    one = row(ranks=1, alone=1.0, measured=1.03)
    assert scale.overhead([row(ranks=2, alone=1.0, measured=2.0), one]) == pytest.approx(0.03)
    assert scale.overhead([]) is None
    assert one.predicted == 1.5
    assert replace(one, overlaps=True).predicted == 1.0
