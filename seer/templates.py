"""Pages from templates: what strangers named is shown as text, and as such a text as can be read."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from seer.errors import printable


def template(folder: Path, name: str) -> jinja2.Template:
    """The template `name` of a folder. Values are escaped, control characters (which would turn
    around or hide what follows) spelled out; `| short(80)` leaves out the middle of a long text.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_readable,
    )
    environment.filters["short"] = shortened
    return environment.get_template(name)


def shortened(text: str, longest: int) -> str:
    """A text of at most `longest` characters: its begin and its end, where names
    differ. `longest` is 4 or more."""
    if len(text) <= longest:
        return text
    begin = longest * 2 // 3
    return f"{text[:begin]}…{text[begin + 1 - longest :]}"


def _readable(value: Any) -> Any:
    """A value as it is to be shown; what a template made itself stays."""
    is_text = isinstance(value, str) and not isinstance(value, Markup)
    return printable(value) if is_text else value
