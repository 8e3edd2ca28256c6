"""THE WORK OF A PERSON: point, execute, look, undo, go on."""
