"""The recipes that come with seer, as the first lines of their files describe them."""

import re
from dataclasses import dataclass
from pathlib import Path

from seer.config import recipes
from seer.inputs import read_text

# A fact may go on in lines that are indented as far.
FACT = re.compile(r"^# (Hardware|Hours|Score) +(.+(?:\n# {12}.+)*)$", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """A recipe: which method trains what on which images, the command, on what, how long, and the
    score to expect.
    """

    recipe: str
    title: str
    command: str
    hardware: str
    hours: str
    score: str

    def lines(self) -> list[str]:
        """For a terminal."""
        return [
            f"{self.recipe}: {self.title}",
            f"    {self.hardware}; hours: {self.hours}; {self.score}",
        ]


def catalogue() -> list[Entry]:
    """All recipes, by name."""
    return [describe(name, path) for name, path in recipes().items()]


def describe(recipe: str, path: Path) -> Entry:
    """A recipe of its file, whose head has a title, an indented command, and the three facts."""
    head = read_text(path)
    facts = {name: " ".join(text.replace("\n#", " ").split()) for name, text in FACT.findall(head)}
    command = re.search(r"^#   (seer .+?)(?:  +.*)?$", head, re.MULTILINE)
    title = head.splitlines()[0].removeprefix("# ").removesuffix(".")
    return Entry(
        recipe,
        title,
        command[1] if command else "",
        facts.get("Hardware", ""),
        facts.get("Hours", ""),
        facts.get("Score", ""),
    )
