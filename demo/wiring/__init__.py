"""How controls start, stop, show and remember requests."""
