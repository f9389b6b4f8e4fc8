"""The page: what a browser shows, and the service that computes it."""
