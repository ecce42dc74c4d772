"""Errors whose message is for the user, as opposed to bugs."""


class InputError(Exception):
    """A user's mistake: the message says what, where and how to mend it. Entry points print it and exit with 2.

    Not a ValueError: the command line parser would take it for one of its own and wrap it.
    """


class ImpossibleError(InputError):
    """A request for more images of some classes, or for other labels, than a set has."""


class ShardError(InputError):
    """A shard that is missing, truncated, or not as it was prepared. The message names it."""


class RunError(RuntimeError):
    """A run that cannot go on although its input was accepted. Entry points print it and exit with 1."""
