"""Tests of parity.reduce."""
