"""The models, the catalogue of those that ship, and the conversion of released checkpoints."""
