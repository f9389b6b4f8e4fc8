"""What surrounds the page: who may ask, what is swept, how the program ends."""
