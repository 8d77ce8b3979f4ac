"""Tests of the operator kernels."""
