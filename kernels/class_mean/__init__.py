"""Class means of a feature map (Eq. 4)."""
