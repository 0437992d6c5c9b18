"""Language models: families, building, loading, counting, running on packed sequences."""
