"""ToyCity's manifest from a stranger: the data set is not complete, and is not overwritten."""

from pathlib import Path

import pytest

from fastass.pipelines.errors import DataError
from fastass.pipelines.toycity import generate, is_complete
from fastass.pipelines.toycity.dataset import MANIFEST


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff", b"[" * 200_000, b"null", b"1e999", b"9" * 5000]
)
def test_foreign_content(tmp_path: Path, data: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(data)
    assert not is_complete(tmp_path, 1, 1)
    with pytest.raises(DataError, match="holds another ToyCity"):
        generate(tmp_path, 1, 1, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]
