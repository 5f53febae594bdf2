"""Input pipelines: data sets, packed shards, loaders, and the built-in data set ToyCity."""
