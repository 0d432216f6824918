"""The rule of the house: imports go one way."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# In the order in which data flows. A package may import those before it, never those after it.
PIPELINE = ["data", "backbones", "methods", "engine", "interop", "eval", "report"]
# What each package must not import although it comes earlier.
FORBIDDEN = {
    "engine": {
        "seer.methods.swav",
        "seer.methods.simclr",
        "seer.methods.byol",
    },  # sees methods.base, no concrete method
    "eval": {"seer.methods", "seer.engine"},  # takes a backbone, never a method
    "report": {
        "seer.data",
        "seer.backbones",
        "seer.methods",
        "seer.engine",
        "seer.interop",
        "seer.eval",
    },  # reads files
    "data": {"seer.config"},
    "backbones": {"seer.data"},
}


def imported(path: Path) -> set[str]:
    """Dotted names of everything a file imports, at any depth of the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def under(name: str, packages: set[str]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in packages)


@pytest.mark.parametrize("package", PIPELINE)
def test_packages_import_only_what_comes_before_them(package):
    later = {f"seer.{name}" for name in PIPELINE[PIPELINE.index(package) + 1 :]}
    # Results are a file format: whoever measures writes it, the report reads it.
    allowed = {"seer.report.results"} if package == "eval" else set()
    forbidden = later | FORBIDDEN.get(package, set()) | {"seer.cli", "seer.recipe", "seer.pretrain", "seer.quickstart"}
    files = sorted((ROOT / "seer" / package).rglob("*.py"))
    assert files
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in files
        for name in imported(path)
        if under(name, forbidden) and not under(name, allowed) and name != "seer.report"
    }
    assert not wrong


def test_only_the_command_line_imports_shards_and_launch():
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "seer").rglob("*.py")
        if path.name != "cli.py"
        for name in imported(path)
        if under(name, {"shards", "launch"})
    }
    assert not wrong


def test_shards_see_the_format_and_no_more_of_seer():
    allowed = {"seer.errors", "seer.files", "seer.schema", "seer.inputs", "seer.outputs", "seer.tables"}
    allowed |= {"seer.terminal", "seer.data.index", "seer.data.decode", "seer.data.hashing"}
    names = {name for path in (ROOT / "shards").rglob("*.py") for name in imported(path) if name.startswith("seer")}
    assert not {n for n in names if not under(n, allowed) and n not in {"seer.data", "seer"}}
    assert not {
        n for p in (ROOT / "launch").rglob("*.py") for n in imported(p) if under(n, {"seer.engine", "seer.methods"})
    }


def test_the_command_line_imports_nothing_heavy_until_a_verb_runs():
    tree = ast.parse((ROOT / "seer/cli.py").read_text())
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    top |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert top <= {
        "collections.abc",
        "contextlib",
        "dataclasses",
        "json",
        "shlex",
        "sys",
        "pathlib",
        "typing",
        "typer",
        "launch.cli",
        "seer",
        "seer.errors",
        "seer.start",
        "seer.terminal",
        "shards.cli",
    }


def unpickles(call: ast.Call) -> bool:
    """Whether a call may run code that a file holds; `torch.load` may not with `weights_only=True`."""
    name = ast.unparse(call.func)
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load":
        return said.get("weights_only") != "True"
    forbidden = {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "yaml.load", "yaml.unsafe_load"}
    return name in forbidden or said.get("allow_pickle", "False") != "False"


def test_nothing_is_unpickled_from_a_file():
    """Launchers may, from jobs and ranks of their own."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for package in ("seer", "shards")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and unpickles(node)
    ]
    assert not wrong
    assert unpickles(ast.parse("torch.load(path)").body[0].value)  # type: ignore[attr-defined]
