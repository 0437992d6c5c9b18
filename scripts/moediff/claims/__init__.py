"""Claims fixed before a study runs: read, measured, judged."""
