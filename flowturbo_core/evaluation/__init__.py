"""Measuring models: how fast, and how good."""
