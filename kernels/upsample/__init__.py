"""Operators on bilinearly upsampled scores: cross-entropy (Eq. 1), softmax, confusion counts."""
