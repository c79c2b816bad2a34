"""What the trials of a shard set, and what a decoder makes of them, look like: numbers, maps and pages."""
