"""Tests of parity/source_model."""
