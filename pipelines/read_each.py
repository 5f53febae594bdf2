"""Read many samples by threads, and keep the reasons of those that are bad."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastass.pipelines.errors import DataError
from fastass.pipelines.process_pool import cores

T = TypeVar("T")


def read_each(
    numbers: Sequence[int],
    read: Callable[[int], T],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[int, T], dict[int, str]]:
    """`read` of every sample, by one thread per core.

    → (results, messages of the DataErrors), both by sample number. progress: called with
    (samples done, samples).
    """
    results: dict[int, T] = {}
    bad: dict[int, str] = {}

    def attempt(i: int) -> T | DataError:
        try:
            return read(i)
        except DataError as error:
            return error

    with ThreadPoolExecutor(cores(), "fastass-read") as pool:
        try:
            for i, result in zip(numbers, pool.map(attempt, numbers), strict=True):
                if isinstance(result, DataError):
                    bad[i] = str(result)
                else:
                    results[i] = result
                progress(len(results) + len(bad), len(numbers))
        except BaseException:  # Ctrl-C: don't read the rest first
            pool.shutdown(cancel_futures=True)
            raise
    return results, bad
