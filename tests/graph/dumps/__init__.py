"""Tests of parity.graph.dumps."""
