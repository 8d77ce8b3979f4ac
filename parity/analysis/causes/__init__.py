"""Causes of a divergence, a family a file: each a function from evidence to what it says, with its figures."""
