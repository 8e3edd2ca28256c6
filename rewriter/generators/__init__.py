"""WHAT can be rewritten: generators as chains of layers, each an associative memory."""
