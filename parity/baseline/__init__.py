"""What was accepted once, kept beside the tests, and whether a later run is worse: per-layer figures, no tensors."""
