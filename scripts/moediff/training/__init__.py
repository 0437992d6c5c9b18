"""Language models trained on token shards."""
