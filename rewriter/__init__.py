"""Rewrite the rules of a pretrained image generator: copy, paste, context, execute.

Read the folders in this order and you have read the method: masks, generators (what can be rewritten), memory (the
method), rule, edit, effect, session, then how generators come in and pictures go out.
"""
