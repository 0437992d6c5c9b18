"""What a run will take: each stage run for a moment on made data of the config's own sizes."""
