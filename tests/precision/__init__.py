"""Tests of parity.precision."""
