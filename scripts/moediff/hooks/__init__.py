"""Reading and changing a model while it runs."""
