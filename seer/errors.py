"""What is told in one line instead of a traceback."""


class InputError(ValueError):
    """Bad input from the user: what is wrong, where, and what to do, in one line.

    The command line prints the message without a traceback and exits with code 2.
    """


class DivergedError(RuntimeError):
    """A run whose losses or gradients stay non-finite; nothing of them was applied. One line, exit code 1."""


def nearest(word: str, choices) -> str:
    """A hint naming the choice closest to `word`: `" (did you mean 'x'?)"`, or the choices when none is close."""
    from difflib import get_close_matches

    names = sorted(map(str, choices))
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else f" (one of: {', '.join(names)})"
