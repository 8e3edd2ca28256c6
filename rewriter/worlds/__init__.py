"""Built-in worlds: scenes with exact labels, and generators that have learned to draw them."""
