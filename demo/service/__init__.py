"""What the page asks: models, requests and what comes of them. Nothing here imports gradio."""
