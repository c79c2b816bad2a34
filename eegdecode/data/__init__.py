"""Recordings to trials to shards to batches: sources, epochs, whiten, splits, shards, stream."""
