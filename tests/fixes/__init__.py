"""Tests of parity.fixes."""
