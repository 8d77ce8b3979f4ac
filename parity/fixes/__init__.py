"""What to do about a variant that misses its tolerance: changes that are tried, and told with what they gave."""
