"""What the documents name is there: files, modules and what these hold."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "shards/README.md"]
FOLDERS = "seer|shards|launch|tests|benchmarks|configs|docs"
# A path from the top, or the end of a module's.
PATH = re.compile(rf"(?<![\w./*-])(?:(?:{FOLDERS})/[\w./-]*\.(?:yaml|md|j2|png)|[\w/-]+\.py)\b")
DOTTED = re.compile(r"`((?:seer|shards|launch|tests)(?:\.[A-Za-z_]\w*)+)")
NO_MODULES = {"seer.log", "seer.configs"}  # a run's file; what setup.py calls `configs/`
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)")
# What a worked example of CONTRIBUTING.md adds.
ADDED = re.compile(r"^```(?:python|diff)\n# \S+\n.*?^```$", re.MULTILINE | re.DOTALL)


def there(path: str) -> bool:
    if path.startswith(tuple(f"{folder}/" for folder in FOLDERS.split("|"))):
        return (ROOT / path).exists()
    modules = (module for folder in FOLDERS.split("|") for module in (ROOT / folder).rglob("*.py"))
    return (ROOT / path).exists() or any(f"/{module}".endswith(f"/{path}") for module in modules)


def named(dotted: str) -> bool:
    """Whether a dotted name is a folder, a module, or what a module defines, imports or is told."""
    *parents, last = dotted.split(".")
    path = ROOT.joinpath(*parents)
    if (path / last).is_dir() or (path / f"{last}.py").is_file():
        return True
    places = (path.with_suffix(".py"), path / "__init__.pyi", path / "__init__.py")
    module = next((p for p in places if p.is_file()), None)
    if module is None:
        return False
    return last in set(names_in(ast.parse(module.read_text())))


def names_in(module: ast.Module) -> Iterator[str]:
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):  # in a stub, `as` says that a name is offered
            yield from (alias.asname for alias in node.names if alias.asname)


def missing(text: str, folder: Path) -> list[str]:
    """What a document in `folder` names and is not there."""
    text = ADDED.sub("", text)
    paths = [path for path in PATH.findall(text) if not there(path)]
    links = [link for link in LINK.findall(text) if not (folder / link).exists()]
    names = [name for name in DOTTED.findall(text) if name not in NO_MODULES and not named(name)]
    return paths + links + names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_and_module_that_a_document_names_exists(path):
    assert not missing(path.read_text(), path.parent)


def test_what_has_moved_is_found():
    gone = (
        "seer/data/decode.py data/decode.py `seer.data.decode` `seer.errors.Input` [runs](run.md)"
    )
    assert missing(gone, ROOT / "docs") == [
        "seer/data/decode.py", "data/decode.py", "run.md", "seer.data.decode", "seer.errors.Input",
    ]  # fmt: skip
    assert not missing("seer/errors.py `seer.errors.InputError` [runs](runs.md)", ROOT / "docs")
