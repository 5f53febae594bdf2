"""The graph that DALI gets for a GPU, on a machine without one.

DALI's own part of `build` asks the driver for a GPU, so it does not run here. Its Python part does:
it makes the operators, checks their arguments against their schemas, and derives from the decoder
(`mixed`) where each following operator runs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dataset_files as files
import pytest
import torch

from fastass.pipelines.datasets.layouts import open_dataset
from fastass.pipelines.loaders.augment import Augment
from fastass.pipelines.loaders.spec import StreamSpec

pytest.importorskip("nvidia.dali")
from nvidia.dali import Pipeline, backend

from fastass.pipelines.loaders import dali_graph

EVERYTHING = Augment(mirror=True, scale=(0.5, 2.0), jitter=0.3, blur=1.0)


def outputs(
    monkeypatch: pytest.MonkeyPatch, folder: Path, augment: Augment, labelled: bool, dtype: Any
) -> list[Any]:
    data = open_dataset(files.gta5(folder / "gta5", 3, (97, 63)))
    spec = StreamSpec(data, 2, (48, 32), "bgr", augment, with_labels=labelled)
    found: list[Any] = []
    monkeypatch.setattr(Pipeline, "build", lambda self: None)
    monkeypatch.setattr(Pipeline, "set_outputs", lambda self, *nodes: found.extend(nodes))
    dali_graph.build(spec, 1, 2, torch.device("cuda:0"), dtype)
    return found


def operators(node: Any) -> Iterator[tuple[str, str, Any]]:
    """(name in DALI, device of the output, the operator) of a node and all that it reads."""
    operator = node.source
    yield operator._op.schema.Name(), node.device, operator._op
    for given in operator.inputs:
        yield from operators(given)


@pytest.mark.parametrize(
    "augment", [Augment(mirror=False), EVERYTHING], ids=["plain", "everything"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_jpegs_are_decoded_on_the_gpu_and_stay_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, augment: Augment, dtype: torch.dtype
) -> None:
    images, labels = outputs(monkeypatch, tmp_path, augment, True, dtype)
    assert labels.device == "gpu"
    found = list(operators(images))
    inputs = [device for name, device, _ in found if name == "ExternalSource"]
    assert set(inputs) == {"cpu"}
    steps = {name: (device, op) for name, device, op in found if name != "ExternalSource"}
    expected = {"decoders__Image", "Resize", "ColorSpaceConversion", "CropMirrorNormalize"}
    if augment is EVERYTHING:
        expected |= {"CoordTransform", "Reinterpret", "GaussianBlur", "Slice"}
    assert steps.keys() == expected
    for name, (device, op) in steps.items():
        assert device == "gpu", name
        mixed = name == "decoders__Image"
        assert op.device == ("mixed" if mixed else "gpu"), name
        known = backend.RegisteredMixedOps() if mixed else backend.RegisteredGPUOps()
        assert name in known, f"{name}: DALI has none for a {op.device} device"


def test_an_unlabelled_stream_has_images_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert len(outputs(monkeypatch, tmp_path, EVERYTHING, False, torch.float32)) == 1
