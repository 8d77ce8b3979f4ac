"""Tests of the runtimes, mirroring parity/backends."""
