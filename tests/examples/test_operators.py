"""The worked examples of docs/operators.md: they run, and their gradients are plain PyTorch's."""

import contextlib
import importlib.util
import io
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from processes import alone
from torch import Tensor

from fastass.bench.ops import foreign_loop

FOLDER = Path(__file__).parents[2] / "examples" / "operators"


def example(name: str) -> ModuleType:
    if name == "segformer":
        pytest.importorskip("transformers", reason="the extra hf is not installed")
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def labels_of(classes: int, *size: int) -> Tensor:
    labels = torch.randint(0, classes, size).byte()
    labels[torch.rand(*size) < 0.2] = 255
    return labels


def same_gradients(ours: Tensor, theirs: Tensor, parameters: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs)
    got = torch.autograd.grad(ours, parameters, retain_graph=True)
    wanted = torch.autograd.grad(theirs, parameters, retain_graph=True)
    scale = max(float(b.abs().max()) for b in wanted)  # some gradients are only rounding
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a / scale, b / scale, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["deeplab_v3", "segformer", "unet"])
def test_an_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example(name)  # skips where a package is missing
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    losses = [
        float(line.split()[-1]) for line in capsys.readouterr().out.splitlines() if "loss" in line
    ]
    assert len(losses) >= 3
    assert losses[-1] < losses[0]


def test_deeplab_v3() -> None:
    module = example("deeplab_v3")
    head = module.DeepLabV3Head(inputs=8, classes=5, width=4)
    scores, labels = head(torch.randn(2, 8, 7, 9)), labels_of(5, 2, 52, 70)
    same_gradients(
        module.loss(scores, labels), module.usual_loss(scores, labels), list(head.parameters())
    )


def test_segformer() -> None:
    module = example("segformer")
    model = module.small_segformer(5).eval()  # without dropout
    images, labels = torch.randn(2, 3, 32, 64), labels_of(5, 2, 32, 64)
    whole = labels.long()
    whole[whole == 255] = model.config.semantic_loss_ignore_index
    theirs = model(pixel_values=images, labels=whole).loss
    same_gradients(module.loss(model, images, labels), theirs, list(model.decode_head.parameters()))
    counts = module.confusion(model, images, labels)
    wide = F.interpolate(model(pixel_values=images).logits, (32, 64), mode="bilinear")
    right = (wide.argmax(1) == labels).sum()
    assert int(counts.sum()) == int((labels != 255).sum())
    assert abs(int(counts.diagonal().sum()) - int(right)) <= 3  # ties of rounding


def test_unet() -> None:
    module = example("unet")
    net = module.UNet(classes=4, width=4)
    scores, labels = net(torch.randn(2, 3, 16, 24)), labels_of(4, 2, 16, 24)
    wide = F.interpolate(scores, (16, 24), mode="bilinear", align_corners=True)
    theirs = F.cross_entropy(wide, labels.long(), ignore_index=255)
    same_gradients(module.loss(scores, labels), theirs, list(net.parameters()))
    torch.testing.assert_close(module.probabilities(scores, (16, 24)), wide.softmax(1))


def measurement(found: str) -> tuple[str, dict[str, Any]]:
    """What the command prints, and its row."""
    foreign_loop.SHAPES = {"small": (1, 19, (64, 64), (512, 512), False)}
    sys.argv = ["foreign_loop", "--rounds", "3", "--device", "cpu", "--json", found]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        foreign_loop.main()
    (row,) = json.loads(Path(found).read_text())["rows"]
    return said.getvalue(), row


def test_the_measurement(tmp_path: Path) -> None:
    # In a process of its own: the peak of one call is lost in what earlier tests left in the heap.
    # The usual way holds 20 MiB of scores here.
    said, row = alone(measurement, tmp_path / "found.json")
    assert "| small" in said
    assert row["largest_difference"] < 1e-4
    assert row["memory_share"] < 0.5
