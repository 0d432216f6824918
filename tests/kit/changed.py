"""The tests of the work at hand: those that mirror what differs from `main`, and what is quick and
looks at everything.

    pytest $(python -m tests.kit.changed)
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ALWAYS = ["tests/test_cli.py", "tests/test_imports.py", "tests/test_options.py"]
ELSEWHERE = {"slurm", "kit"}  # needs a cluster; has no tests


def git(*words: str) -> list[str]:
    """The lines that git answers, none if it fails."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else []


def changed_files() -> list[Path]:
    """What was committed since `main`, what was not yet, and new files."""
    for main in ("main", "origin/main", "HEAD"):
        if base := git("merge-base", "HEAD", main):
            break
    else:
        return []
    new = git("ls-files", "--others", "--exclude-standard")
    return [Path(name) for name in [*git("diff", "--name-only", base[0]), *new]]


def mirrors(path: Path) -> Iterator[Path]:
    """Where the tests of a file may be, the nearest place first."""
    package, *folders = path.parent.parts or ("",)
    if package == "tests":
        yield path if path.name.startswith("test_") else path.parent
    elif package in ("seer", "shards", "launch") and path.suffix == ".py":
        room = Path("tests", *([] if package == "seer" else [package]), *folders)
        yield room / f"test_{path.name}"
        yield room
        yield from room.parents
    elif path.parts[:2] == ("configs", "pretrain"):
        yield Path("tests/pretrain/test_recipe.py")
    elif path.suffix == ".md":
        yield Path("tests/test_documents.py")


def shown(path: Path) -> bool:
    """Whether a file is CONTRIBUTING.md, or one that it shows how to alter."""
    page = Path("CONTRIBUTING.md")
    return path == page or f"\n# {path}\n" in (ROOT / page).read_text()


def tests_of(paths: list[Path]) -> list[str]:
    """The test files and folders that mirror `paths`, each once and none inside another."""
    chosen = set()
    for path in paths:
        if shown(path):
            chosen.add(Path("tests/test_contributing.py"))
        place = next((p for p in mirrors(path) if (ROOT / p).exists()), None)
        if place and len(place.parts) > 1 and place.parts[1] not in ELSEWHERE:
            chosen.add(place)
    outermost = [place for place in chosen if not chosen & set(place.parents)]
    return sorted({*ALWAYS, *map(str, outermost)})


if __name__ == "__main__":
    print(*tests_of(changed_files()))
