"""Tests of parity; they mirror the package."""
