"""Tests of the commands and their options."""
