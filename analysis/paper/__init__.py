"""What others published: numbers with their sources, and the functions that read them."""
