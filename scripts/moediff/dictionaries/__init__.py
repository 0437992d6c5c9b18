"""The dictionary engine: scores, selection, products, blocks; fitting."""
