"""Model files before anything reads them, and what a library says of one that it cannot read."""

from pathlib import Path

from seer import inputs
from seer.errors import InputError, first_line

LARGEST_HEADER = 2**24  # bytes; a network of ten thousand tensors has a header of one million


def check_header(path: Path) -> None:
    """Raise `InputError` for what is no file, and for a header too long to be one: it would be read
    as a whole.
    """
    try:
        with inputs.open_data(path) as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a file of weights"
        ) from None
    if path.suffix.lower() == ".safetensors" and length > LARGEST_HEADER:
        raise InputError(
            f"{path}: not readable as safetensors (it begins with no header of a usual length)"
        )


def reason(error: BaseException) -> str:
    """What a library says of a file, on one line, short, and without what a terminal would obey."""
    said = getattr(error, "strerror", None) or first_line(error)
    text = said.encode("unicode_escape").decode()
    return text if len(text) <= 160 else f"{text[:157]}..."
