"""Worlds of known truth, and methods scored on them."""
