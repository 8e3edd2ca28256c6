"""Edits, rules and sessions: a person marks places, executes the edit, checks the result, undoes steps."""
