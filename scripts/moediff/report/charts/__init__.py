"""Tidy tables to Altair charts, by subject."""
