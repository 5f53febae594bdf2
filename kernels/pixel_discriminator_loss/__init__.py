"""Both losses of the pixel-wise semantic discriminator (Eq. 7–8)."""
