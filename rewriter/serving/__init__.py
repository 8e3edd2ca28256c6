"""Serving many visitors who do not trust each other: whose turn it is, worker processes, records, pictures, limits."""
