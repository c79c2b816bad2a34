"""Scores with their chance level, interval and controls: retrieval, reconstruction, statistics, baselines, report."""
