"""Tests of parity.graph."""
