"""Text to documents, tokens and token shards."""
