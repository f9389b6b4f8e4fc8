"""Data sets: the bundled postcards, and folders of images."""
