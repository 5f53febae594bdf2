"""Stage `counters`: hardware counters of class_mean, cross-entropy and D_s's tail, by ncu."""

import shutil
import subprocess
import sys

from fastass.bench.first_contact.stages import Context

METRICS = (
    "gpu__time_duration.sum",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "smsp__inst_executed.sum",
)
# One forward of each operator at the paper's sizes.
CODE = """
import torch
from fastass import kernels
B, N, C, M, small, full = 8, 2048, 19, 1024, (91, 161), (720, 1280)
last = torch.channels_last
features = torch.randn(B, N, *small, device="cuda", dtype=torch.bfloat16).to(memory_format=last)
scores = torch.randn(B, C, *small, device="cuda", dtype=torch.bfloat16).to(memory_format=last)
labels = torch.randint(0, C, (B, *full), device="cuda", dtype=torch.uint8)
shapes = ((M, N), (M,), (2 * C, M), (2 * C,))
weights = [torch.randn(s, device="cuda", dtype=torch.bfloat16) * 0.01 for s in shapes]
features.requires_grad_(), scores.requires_grad_(), [w.requires_grad_() for w in weights]
kernels.class_mean(features, labels, C)
kernels.upsample_cross_entropy(scores, labels, align_corners=True, return_probabilities=True)
kernels.pixel_discriminator_loss(features, labels, *weights, domain=0, adversarial=True)
torch.cuda.synchronize()
"""


def counters(context: Context) -> None:
    """A line per kernel; the reason where ncu is not there or not permitted."""
    if context.device.startswith("cpu"):
        context.results.write(what="skipped", reason="counters are a GPU's")
        return
    ncu = shutil.which("ncu")
    if ncu is None:
        context.results.write(what="skipped", reason="ncu (Nsight Compute) is not installed")
        return
    command = [ncu, "--csv", "--metrics", ",".join(METRICS), sys.executable, "-c", CODE]
    ran = subprocess.run(command, capture_output=True, text=True)
    rows = [line for line in ran.stdout.splitlines() if line.startswith('"')]
    if not rows:
        reason = " ".join((ran.stdout + ran.stderr).split())[-500:]
        context.results.write(what="failed", reason=reason)
        return
    for row in rows:
        context.results.write(what="ncu", row=row)
