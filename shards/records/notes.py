"""What was not taken as an image of its own: each kind counted, and shown by its first example."""

from dataclasses import dataclass, field

from seer.errors import printable

MOST_KINDS = 12  # told; the sources of a build may have any number
MOST_CHARACTERS = 200  # of a name; a tar's may have a million


def display(name: str) -> str:
    """A name that came out of a file, for people: what is no text or not printable becomes escapes."""
    text = printable(name[:MOST_CHARACTERS])
    return text if len(name) <= MOST_CHARACTERS else f"{text}…"


@dataclass
class Notes:
    """Counts and first examples by kind; a kind is a phrase that follows a number: `"links in tars,
    passed over"`.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, example: str, count: int = 1) -> None:
        """Enter `count` things of a kind, one of which is `example`."""
        self.counts[kind] = self.counts.get(kind, 0) + count
        self.examples.setdefault(kind, example)

    def update(self, other: "Notes", prefix: str = "") -> None:
        """Enter all that other notes have; `prefix` begins their examples, which lie in it."""
        for kind, count in other.counts.items():
            self.add(kind, prefix + other.examples[kind], count)

    def lines(self) -> list[str]:
        """One line for each kind, the most frequent first."""
        ranked = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        lines = [
            f"{self.counts[kind]:,} {kind}, for example {self.examples[kind]}"
            for kind in ranked[:MOST_KINDS]
        ]
        if len(ranked) > MOST_KINDS:
            lines.append(f"… and {len(ranked) - MOST_KINDS:,} other kinds")
        return lines
