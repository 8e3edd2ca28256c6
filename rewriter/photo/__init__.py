"""Photos: a person's own picture, found in a generator, so that it can be edited like every picture of a seed.

`opening.open_photo` does it all: `square` reads a file and cuts a square out, `nearest` finds generated pictures like
it, `inversion` searches latents that draw it, `adaptation` lets rules of low rank draw what is left, and `portable`
keeps the result as a file. `Rewriter.open` makes it a picture of a session.
"""
