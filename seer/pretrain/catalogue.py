"""The recipes that come with seer, as the first lines of their files describe them."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seer.config import recipes
from seer.inputs import read_text

# A fact may go on in lines that are indented as far.
WIDTH = 100  # columns
FIRST = "quickstart"
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

    @property
    def gpus(self) -> int:
        """How many it is for; 0 where it is for a CPU."""
        number, _, kind = self.hardware.partition(" ")
        return 0 if kind.startswith("CPU") else int(number)

    def lines(self) -> list[str]:
        """For a terminal."""
        facts = {"for": self.hardware, "hours": self.hours, "score": self.score}
        lines = [self.recipe, *_wrapped(self.title, "    ")]
        for name, fact in facts.items():
            lines += _wrapped(fact, f"    {name:7}")
        return lines


def catalogue() -> list[Entry]:
    """All recipes: those for a CPU, for one GPU, for many; then by name, the quickstart's first."""
    entries = [describe(name, path) for name, path in recipes().items()]
    return sorted(entries, key=lambda entry: (entry.gpus, entry.recipe != FIRST, entry.recipe))


def for_machine(entries: Sequence[Entry], cores: int, gpus: int) -> str:
    """Which of the recipes are for no more than a machine with so many CPU cores and GPUs."""
    names = ", ".join(entry.recipe for entry in entries if entry.gpus <= gpus)
    machine = f"this machine ({cores} CPU cores, {gpus or 'no'} NVIDIA GPU{'s' * (gpus > 1)})"
    memory = "; whether it fits: seer plan RECIPE --gpus N --gpu KIND" if gpus else ""
    return f"on {machine}: {names}{memory}"


def _wrapped(text: str, opening: str) -> list[str]:
    indent = " " * len(opening)
    return textwrap.wrap(text, WIDTH, initial_indent=opening, subsequent_indent=indent)


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
