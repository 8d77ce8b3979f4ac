"""A variant of a model: which node runs in which precision, written as graph edits."""
