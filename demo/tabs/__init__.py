"""One short file a tab."""
