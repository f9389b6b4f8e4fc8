"""What the page says and shows, made of events: HTML, words and files."""
