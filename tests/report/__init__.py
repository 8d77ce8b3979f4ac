"""Tests of parity.report."""
