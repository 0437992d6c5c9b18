"""Activation shards: written, verified, read as aligned rows."""
