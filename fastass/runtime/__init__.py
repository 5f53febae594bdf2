"""The process around the training: device, ranks, signals, memory, threads, files."""
