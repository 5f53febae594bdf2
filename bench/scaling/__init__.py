"""What many GPUs make of a step: a model of the exchange, held against ranks on this machine."""
