"""The order of samples: a pure function of (seed, stream, step, rank, world).

`fastass.pipelines.loaders.rare_class` has the other order, which draws rare classes more often.

A stream is an endless sequence of epochs; each epoch is a new permutation of all its samples.
Position p of a stream is sample `permutation(seed, stream, p // size, size)[p % size]`.
Step t takes the positions [t·B, (t+1)·B) with B = batch · world, rank r the r-th part of them, so

- within an epoch no sample is dropped or repeated; a batch may span two epochs,
- ranks read disjoint parts, and 1 rank × batch 4 = 2 × 2 = 4 × 1 see the same global batch,
- a run can resume at any step without any state, also with another world size,
- each stream has its own epoch length.

An elastic run divides the same positions among the members of each step (`share`), who may be
others in the next step.
"""

import itertools
from functools import lru_cache
from hashlib import blake2b

import numpy as np


def key(seed: int, stream: str, purpose: str) -> int:
    """A 128-bit number for one purpose of one stream."""
    digest = blake2b(f"{seed}/{stream}/{purpose}".encode(), digest_size=16).digest()
    return int.from_bytes(digest, "little")


@lru_cache(maxsize=16)
def permutation(seed: int, stream: str, epoch: int, size: int) -> np.ndarray:
    """The order of one epoch: int64 [size], read-only.

    Made by sorting raw Philox words: NumPy may change the output of `Generator.permutation`.
    """
    words = np.random.Philox(key=key(seed, stream, f"epoch {epoch}")).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order


def sample_at(seed: int, stream: str, position: int, size: int) -> int:
    """The sample at a position of a stream of `size` samples."""
    epoch, at = divmod(position, size)
    return int(permutation(seed, stream, epoch, size)[at])


def positions(step: int, batch: int, rank: int = 0, world: int = 1) -> range:
    """The positions that one rank reads at one step; batch: samples per rank."""
    start = (step * world + rank) * batch
    return range(start, start + batch)


def share(step: int, batch: int, member: int, members: int) -> range:
    """The positions that one of the members of a step reads; batch: samples of all of them.

    Parts of almost equal size, one after the other; none is empty where members ≤ batch.
    """
    start = step * batch
    return range(start + batch * member // members, start + batch * (member + 1) // members)


def pieces(part: range, most: int) -> list[range]:
    """A part of a step in as few mini-batches of at most `most` samples as possible."""
    count = -(-len(part) // most)
    cuts = [part.start + len(part) * i // count for i in range(count + 1)]
    return [range(*pair) for pair in itertools.pairwise(cuts)]


def uniforms(seed: int, stream: str, position: int, count: int) -> tuple[float, ...]:
    """`count` ≤ 16 random numbers in [0, 1) for one position of a stream."""
    words = blake2b(f"{seed}/{stream}/draw {position}".encode(), digest_size=64).digest()
    return tuple(int.from_bytes(words[4 * i : 4 * i + 4], "little") / 2**32 for i in range(count))
