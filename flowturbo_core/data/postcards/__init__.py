"""Postcards, the bundled data set: endless little posters drawn by code."""
