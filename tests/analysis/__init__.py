"""Tests of parity.analysis."""
