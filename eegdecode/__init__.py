"""Decode what a person saw from EEG: training, search, reconstruction and serving on a cluster."""

__version__ = "0.1.0"
