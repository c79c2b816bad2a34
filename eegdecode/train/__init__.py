"""Fitting: what is asked of a model (task), what updates it (engine), the loop, and its restart (resume)."""
