import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastass.pipelines.loaders.order import (
    permutation,
    pieces,
    positions,
    sample_at,
    share,
    uniforms,
)


def epoch_of(samples: list[int], size: int, epoch: int) -> list[int]:
    return samples[epoch * size : (epoch + 1) * size]


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    size = 101
    samples = [sample_at(3, "source", p, size) for p in range(5 * size)]
    epochs = [epoch_of(samples, size, e) for e in range(5)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert len({tuple(epoch) for epoch in epochs}) == 5


@pytest.mark.parametrize(("world", "batch"), [(1, 4), (2, 2), (4, 1)])
def test_ranks_share_one_global_batch(world: int, batch: int) -> None:
    for step in (0, 1, 7, 26):
        got = [p for rank in range(world) for p in positions(step, batch, rank, world)]
        assert got == list(range(4 * step, 4 * step + 4))


def test_a_single_process_reads_every_position() -> None:
    assert positions(3, 4) == range(12, 16)


def test_an_epochs_order_is_made_once_and_cannot_be_changed() -> None:
    order = permutation(5, "source", 2, 9)
    assert permutation(5, "source", 2, 9) is order
    with pytest.raises(ValueError, match="read-only"):
        order[0] = 0


@pytest.mark.parametrize(("world", "batch", "size"), [(1, 1, 7), (3, 2, 10), (4, 5, 3), (8, 4, 33)])
def test_nothing_is_dropped_or_repeated(world: int, batch: int, size: int) -> None:
    steps = 4 * size  # whole epochs of whole steps
    seen = [
        sample_at(0, "labelled", p, size)
        for step in range(steps)
        for rank in range(world)
        for p in positions(step, batch, rank, world)
    ]
    for epoch in range(len(seen) // size):
        assert sorted(epoch_of(seen, size, epoch)) == list(range(size))


def test_seed_stream_and_epoch_all_matter() -> None:
    base = permutation(0, "source", 0, 1000)
    for other in ((1, "source", 0), (0, "labelled", 0), (0, "source", 1)):
        assert (permutation(*other, 1000) == base).mean() < 0.02


def test_the_order_never_changes_with_a_library() -> None:
    """Literal values: a run of last year must see the same samples."""
    assert permutation(0, "source", 0, 8).tolist() == [4, 3, 5, 6, 1, 0, 2, 7]
    assert uniforms(0, "source", 0, 2) == (0.7867024424485862, 0.9951751392800361)


def test_uniforms_are_uniform_and_independent() -> None:
    u = np.array([uniforms(0, "source", p, 10) for p in range(4000)])
    assert ((u >= 0) & (u < 1)).all()
    np.testing.assert_allclose(u.mean(axis=0), 0.5, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(u.T), np.eye(10), atol=0.06)
    np.testing.assert_allclose(np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1], 0, atol=0.06)


@given(batch=st.integers(1, 40), most=st.integers(1, 9), changes=st.lists(st.integers(1, 40)))
def test_the_members_of_each_step_divide_the_same_sequence(
    batch: int, most: int, changes: list[int]
) -> None:
    """Whoever takes part: all positions, each once, in mini-batches of almost equal size."""
    seen: list[int] = []
    for step, members in enumerate(changes):
        members = min(members, batch)
        parts = [share(step, batch, member, members) for member in range(members)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for part in parts:
            cut = pieces(part, most)
            assert all(0 < len(piece) <= most for piece in cut)
            assert len(cut) == -(-len(part) // most)
            seen += [position for piece in cut for position in piece]
    assert seen == list(range(batch * len(changes)))


def test_a_single_member_cuts_its_step_as_a_process_that_accumulates() -> None:
    assert pieces(share(3, 6, 0, 1), 2) == [positions(9 + n, 2) for n in range(3)]
