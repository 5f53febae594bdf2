"""What the members of an elastic run tell each other by `gather` is data: none of it runs code."""

import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from fastass.errors import TrainingFailure
from fastass.runtime.elastic import LONGEST, Members


def gather(value: Any, other: bytes, length: int | None = None) -> list[Any]:
    """What rank 0 gets if rank 1 sends `other`, and says that it has `length` bytes."""

    def summed(tensor: Tensor) -> Tensor:
        if tensor.dtype == torch.int64:
            return tensor + torch.tensor([0, len(other) if length is None else length])
        tensor[1, : len(other)] += torch.frombuffer(bytearray(other), dtype=torch.uint8)
        return tensor

    alone: Any = SimpleNamespace(rank=0, size=2, sum=summed)
    return Members.gather(alone, value)


@pytest.mark.parametrize("other", [["b", {"torch": "2"}, 7], ["ä" * 300, {}, 2**32 - 1]])
def test_everybody_gets_the_values_of_all(other: list[Any]) -> None:
    own = ("a", {"torch": "2"}, 5)
    assert gather(own, json.dumps(other).encode()) == [["a", {"torch": "2"}, 5], other]


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle ran",))


@pytest.mark.parametrize("other", [pickle.dumps(Bomb()), b"{", b"[" * 100_000, b"\xff\xfe\x00"])
def test_anything_else_is_one_line(other: bytes) -> None:
    with pytest.raises(TrainingFailure, match="a member sent no JSON") as error:
        gather(1, other)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, -1, LONGEST + 1, 2**62])
def test_a_length_beyond_the_limit_is_refused(length: int) -> None:
    with pytest.raises(TrainingFailure, match=f"bytes, not 1 to {LONGEST}"):
        gather(1, b"1", length)
