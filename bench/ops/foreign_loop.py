"""The loss of other training loops: fastass's operator beside interpolate + cross_entropy.

    python -m bench.ops.foreign_loop [--rounds 7] [--json FILE]

Forward and backward of the loss alone, down to the gradient of the scores, at the sizes of three
networks: a DeepLabV3 head (output stride 8), SegFormer (4), a U-Net that ends at half size (2).
The two take turns in one process; medians count. Memory: the rise of the peak by one call.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from tabulate import tabulate
from torch import Tensor

from fastass import kernels
from fastass.bench.meters import peak_of, timed
from fastass.bench.result import check_result_file, write_result
from fastass.kernels import upsample_cross_entropy
from fastass.runtime.openmp import wait_passively

# name → (images, classes, size of the scores, size of the labels, align_corners)
SHAPES = {
    "DeepLabV3 head, 1/8": (2, 19, (64, 128), (512, 1024), False),
    "SegFormer, 1/4": (2, 19, (128, 256), (512, 1024), False),
    "U-Net, 1/2": (2, 19, (256, 512), (512, 1024), True),
}


def fused(scores: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    return upsample_cross_entropy(scores, labels, align_corners=align_corners)


def usual(scores: Tensor, labels: Tensor, align_corners: bool) -> Tensor:
    size = (labels.shape[1], labels.shape[2])
    wide = F.interpolate(scores, size, mode="bilinear", align_corners=align_corners)
    return F.cross_entropy(wide, labels.long(), ignore_index=255)


def gradient(
    loss: Callable[..., Tensor], scores: Tensor, labels: Tensor, align_corners: bool
) -> Tensor:
    """∂loss/∂scores, as a training step computes it."""
    leaf = scores.detach().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, labels, align_corners), leaf)
    return found


def measure(name: str, rounds: int, device: torch.device) -> dict[str, Any]:
    """Times, memory and the largest difference of the gradients for one of `SHAPES`."""
    images, classes, small, large, corners = SHAPES[name]
    torch.manual_seed(0)
    scores = torch.randn(images, classes, *small, device=device)
    labels = torch.randint(0, classes, (images, *large), device=device).byte()
    labels[torch.rand(images, *large, device=device) < 0.1] = 255
    calls = {w: partial(gradient, f, scores, labels, corners) for w, f in _WAYS.items()}
    ours, theirs = calls["fastass"](), calls["usual"]()
    times: dict[str, list[float]] = {way: [] for way in calls}
    for _ in range(rounds):
        for way, call in calls.items():
            times[way].append(timed(call, device))
    memory = {way: peak_of(call, device) for way, call in calls.items()}
    return {
        "network": name,
        "fastass_ms": 1e3 * median(times["fastass"]),
        "usual_ms": 1e3 * median(times["usual"]),
        "speedup": median(times["usual"]) / median(times["fastass"]),
        "fastass_mib": memory["fastass"] / 2**20,
        "usual_mib": memory["usual"] / 2**20,
        "memory_share": memory["fastass"] / memory["usual"],
        "largest_difference": float((ours - theirs).abs().max() / theirs.abs().max()),
    }


_WAYS = {"fastass": fused, "usual": usual}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    shown = [
        (
            row["network"],
            f"{row['usual_ms']:.1f} ms",
            f"{row['fastass_ms']:.1f} ms",
            f"{row['speedup']:.1f}×",
            f"{row['usual_mib']:.1f} MiB",
            f"{row['fastass_mib']:.1f} MiB",
            f"1/{1 / max(row['memory_share'], 1e-6):.0f}",
            f"{row['largest_difference']:.1e}",
        )
        for row in rows
    ]
    heads = ("scores of", "usual", "fastass", "faster", "usual", "fastass", "memory", "difference")
    return tabulate(shown, heads, tablefmt="github")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.json is not None:
        check_result_file(args.json)
    rows = [measure(name, args.rounds, device) for name in SHAPES]
    if args.json is not None:  # first: the output may be closed
        write_result(args.json, "bench.ops.foreign_loop", {"rows": rows})
    which = kernels.resolve(device)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads, {which}\n")
    print(table(rows))


if __name__ == "__main__":
    wait_passively()
    main()
