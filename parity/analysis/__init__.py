"""What the tensors say: measure, match, localize, attribute, diagnose."""
