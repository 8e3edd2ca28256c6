"""FROM a file TO a Generator, without trusting the file."""

CONDITIONAL = "it is conditional: it draws the class that is asked for, which is not supported"
LARGEST = 8 << 30  # bytes of a checkpoint file
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".pkl")  # of checkpoint files
