"""What makes models: converting, bundling, fetching."""
