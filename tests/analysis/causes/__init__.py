"""Causes of a divergence, a family a file."""
