"""Charts, the page, and what a run will cost."""
