"""Each operator's calls of the native library: scratch tensors, layouts, and what comes back."""
