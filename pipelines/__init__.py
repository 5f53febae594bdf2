"""Input pipelines: data set layouts, packing, decoding and augmentation, sample order."""
