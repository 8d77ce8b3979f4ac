"""Find where a deployed network stops matching the one that was trained."""
