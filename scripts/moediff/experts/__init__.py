"""Experts joined to features."""
