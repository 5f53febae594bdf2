"""How the runs of ToyCity's tables are trained, and on which data.

As in the paper, a method starts from a trained network. There are no weights to download, so the
start is a short training on the source. The oracle may not see the source, so it starts on its
labelled target images. All methods take the same number of steps; the oracle takes more of them on
the target than any other.
"""

SHIFT = 0.25
"""Shift of the target's materials. At 1 a network of 0.4 M parameters cannot serve both domains:
trained on both with all labels, it stays nine points below the oracle (docs/results)."""

START_STEPS = 160
"""Steps of the supervised start, which all methods of a seed except the oracle share."""

TRAINING = (
    "--steps 240 --batch 4 --source-size 192x108 --target-size 192x96 --loss-gadv 0.02 --d-lr 1e-3 "
    "--eval-every 40 --save-every 1000 --workers 1"
).split()
"""Flags of each run, small enough for two CPU cores. λ_gadv and the discriminators' learning rate
are larger than the preset's, so that the adversarial terms matter within 240 steps."""
