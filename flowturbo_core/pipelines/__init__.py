"""Pipelines: a model folder in, pictures out."""
