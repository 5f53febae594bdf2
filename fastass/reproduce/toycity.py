"""How the runs of ToyCity's tables are trained, and on what.

As in the paper, a method starts from a trained network. There are no weights to download, so the
start is a short training on the source. The oracle must not see that: its start is on its labelled
images, so all take the same number of steps, and the oracle sees more of the target than any.
"""

SHIFT = 0.25
"""Of the target's materials. At 1 a network of 0.4 M parameters cannot serve both domains: trained
on both with all labels it stays nine points below the oracle (docs/results)."""

START_STEPS = 160
"""Of the supervised start; all methods of a seed but the oracle share one."""

TRAINING = (
    "--steps", "240", "--batch", "4", "--source-size", "192x108", "--target-size", "192x96",
    "--loss-gadv", "0.02", "--d-lr", "1e-3", "--eval-every", "40", "--save-every", "1000",
    "--workers", "1",
)  # fmt: skip
"""Flags of every run: small enough for two CPU cores. The adversarial terms and the discriminators
are faster than the preset's, so that they have a say within 240 steps."""
