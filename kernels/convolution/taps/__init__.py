"""A classifier's convolutions as one product for all their taps, on a GPU."""
