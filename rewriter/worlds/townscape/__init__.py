"""Townscape: a built-in world of procedurally drawn towns.

`scenes` says exactly what a latent means: which pixels are the dome, and how the same town looks with a spire.
`factors` are its numbers; `world` is what a generator trains on; `marks` finds watermarks; `make_examples` made the
shipped edits.
"""
