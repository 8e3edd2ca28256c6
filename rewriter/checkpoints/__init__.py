"""FROM a file TO a Generator, without trusting the file."""

CONDITIONAL = "it is conditional, and a layer that depends on a class label is not one memory"
LARGEST = 8 << 30  # bytes of a checkpoint file
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar", ".pkl")  # of checkpoint files
