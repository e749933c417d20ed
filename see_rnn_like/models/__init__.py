"""Finding layers: how a model is laid out, and the `_id` rules to name a layer."""
