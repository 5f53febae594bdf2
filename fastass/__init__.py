"""fastass: a fast training engine for semi-supervised domain adaptation of street scenes."""

import os

# Before torch loads OpenMP: idle threads sleep instead of spinning. On cores shared with other
# processes spinning made a training step of the tiny network 5 to 35 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
