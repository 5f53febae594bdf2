"""fastass: a fast training engine for semi-supervised domain adaptation of street scenes."""
