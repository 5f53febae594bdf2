"""The device code of `softmax_gpu`, `pseudo_labels_gpu`: tiles, columns, cells, probabilities."""
