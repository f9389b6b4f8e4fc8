"""Training: one loop, and the objectives that run on it."""
