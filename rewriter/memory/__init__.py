"""THE METHOD: one layer seen as a linear associative memory; tensors in, tensors out."""
