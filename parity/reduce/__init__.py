"""From a bad layer to the smallest model that still shows it: `pipeline.py` is the file to read first."""
