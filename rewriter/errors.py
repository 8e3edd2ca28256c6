"""What goes wrong, in words a user can act on."""


class RewriterError(Exception):
    """Base of every error this package raises on purpose: names the value, what was expected and the next step."""


class InputError(RewriterError, ValueError):
    """Something handed in cannot be used as it is: a mask, a file, a layer name, a rank."""


class ComputationError(RewriterError, RuntimeError):
    """The numbers went wrong on the way: non-finite features or weights, a system without a solution."""


class CancelledError(RewriterError, RuntimeError):
    """The caller's `on_step` asked to stop; nothing was changed."""
