"""FROM a file TO a Generator, without trusting the file."""
