"""Portraits: a built-in world of procedurally drawn people.

`scenes` says exactly what a latent means: which pixels are glasses, and how the same person looks with a smile.
`factors` are its numbers; `person`, `hair`, `face` and `wear` draw; `world` is what a generator trains on.
"""
