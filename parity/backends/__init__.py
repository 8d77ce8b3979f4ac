"""Who can run a model: one file a runtime, all behind the same two calls."""
