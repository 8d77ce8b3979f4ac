"""Tests of the TensorRT backend."""
