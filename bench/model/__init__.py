"""The roofline model of a training step: traces of what it runs, rates of GPUs, milliseconds."""
