import sys
from itertools import islice
from pathlib import Path

import dataset_files as files
import pytest

import fastass.pipelines.loaders
from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.errors import DataError
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.open_loader import LOADERS, open_loader
from fastass.pipelines.loaders.spec import StreamSpec
from fastass.pipelines.packed.dataset import open_packed
from fastass.pipelines.packed.pack import pack


def streams(root: Path) -> dict[str, StreamSpec]:
    data = open_dataset(files.gta5(root / "gta5", 40, (97, 63)))
    pack(data, root / "packed", (48, 32), workers=1)
    packed = open_packed(root / "packed")
    augment = Augment(scale=(1.0, 2.0), jitter=0.2)
    return {
        "source": StreamSpec(packed, 2, (48, 32), augment=augment),
        "labelled": StreamSpec(packed, 2, (48, 32), indices=(0, 1, 2)),
        "unlabelled": StreamSpec(packed, 2, (48, 32), with_labels=False),
    }


def test_missing_dali_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    for name in ("dali", "dali_graph"):
        monkeypatch.delitem(sys.modules, f"fastass.pipelines.loaders.{name}", raising=False)
        monkeypatch.delattr(fastass.pipelines.loaders, name, raising=False)
    with pytest.raises(DataError, match=r"pip install nvidia-dali-cuda130, or use --loader pillow"):
        open_loader("dali", streams(tmp_path), 0)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_memory_stays_flat(name: str, tmp_path: Path) -> None:
    if name == "dali":
        pytest.importorskip("nvidia.dali")
    with open_loader(name, streams(tmp_path), 0) as loader:
        batches = loader.batches()
        for _ in islice(batches, 2000):
            pass
        before = resident()
        for _ in islice(batches, 18000):
            pass
        assert resident() - before < 4 << 20
