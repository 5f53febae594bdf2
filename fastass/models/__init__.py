"""Networks: the generator (DeepLab-v2) and the discriminators."""
