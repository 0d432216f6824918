"""The rule of the house: imports go downwards, and no file stands in a circle."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("seer", "shards", "launch")

# All rooms, the ground floor first: folders, and the files of folders that have several floors. A
# file imports from floors below its own, and from its own room.
FLOORS = """
    seer seer.data shards launch
    seer.background seer.errors seer.files seer.forkserver seer.start
    seer.hardware seer.kernels seer.outputs seer.registry seer.rendezvous seer.schema
    seer.commands seer.distributed seer.flags seer.inputs seer.precision seer.steps seer.templates seer.terminal
    seer.config seer.jsonl seer.processes
    seer.rundir
    seer.results

    seer.data.ahead seer.data.members seer.data.options
    seer.data.cutter seer.data.decoding seer.data.hashing seer.data.views
    seer.data.crops seer.data.folders seer.data.order seer.data.storage
    seer.data.labelled seer.data.ledger
    seer.data.delivery
    seer.data.workers
    seer.data.loader seer.data.whole_samples
    seer.data.stream

    shards.options shards.pool shards.records
    shards.archives
    shards.sources
    shards.dedup shards.download
    shards.report shards.writing
    shards.prune shards.takedown
    shards.saliency
    shards.build shards.indexing
    shards.first_use
    shards.verify

    seer.backbones
    seer.engine
    seer.methods
    seer.interop
    seer.eval
    seer.report
    seer.browse seer.checks seer.quickstart
    seer.pretrain shards.boxed
    seer.adapt seer.planning seer.speedrun

    launch.holder launch.profile launch.queue shards.cli
    launch.attempts launch.doctor
    seer.readiness
    seer.verbs
    seer.api
    launch.job
    launch.launches
    launch.__main__ launch.arms launch.local launch.slurm launch.status launch.torchrun
    launch.cli
    seer.cli
    seer.__main__
"""
FLOOR = {room: floor for floor, line in enumerate(FLOORS.splitlines()) for room in line.split()}
# Folders whose files are rooms of their own.
FOLDERS_OF_ROOMS = {"seer", "seer.data", "shards", "launch"}
# What a room does not see although it stands below, but for the modules after the colon.
UNSEEN = {
    # the contract
    "seer.methods": "seer.engine: seer.engine.bank seer.engine.learner seer.engine.symptoms",
    "seer.eval": "seer.methods:",  # a backbone, never a method
    "seer.eval.probes": "seer.engine: seer.engine.schedule",  # frozen ones; a curve is one everywhere
    # files, and how values are compared
    "seer.report": "seer.data seer.backbones seer.engine seer.eval: "
    "seer.eval.curves seer.eval.outcomes seer.eval.paired seer.eval.literature",
    "shards": "seer.data: seer.data.storage seer.data.decoding seer.data.hashing",  # the format
    "seer": "launch shards:",
    "launch": "seer.methods seer.engine seer.data:",
}
# The command line's verbs, and the same in Python, reach what they run.
REACHING = {"seer.api", "seer.cli", "seer.readiness", "seer.verbs"}


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p
        for p in paths
    }


def imported(path: Path, known: set[str]) -> Iterator[str]:
    """The modules among `known` that a file imports, at any depth of the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            parts = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [part if part in known else str(node.module) for part in parts]
        yield from (name for name in names if name in known)


@cache
def graph() -> dict[str, frozenset[str]]:
    """What every module imports of ours."""
    known = set(modules())
    return {name: frozenset(imported(path, known)) - {name} for name, path in modules().items()}


def room_of(name: str) -> str:
    """The room in which a module stands: itself or the nearest folder around it that is one, "" if
    there is none.
    """
    parts = name.split(".")
    around = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    room = next(filter(FLOOR.__contains__, around), "")
    return room if room == name or room not in FOLDERS_OF_ROOMS else ""


def under(name: str, *rooms: str) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def upward(graph: dict[str, frozenset[str]]) -> list[str]:
    """The imports that do not go downwards."""
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if room_of(name) != room_of(other) and FLOOR[room_of(other)] >= FLOOR[room_of(name)]
    ]


def unseen(graph: dict[str, frozenset[str]]) -> list[str]:
    """The imports of what a room does not see."""
    wrong = []
    for name, others in graph.items():
        for room, text in UNSEEN.items():
            hidden, _, but = text.partition(":")
            if under(name, room) and not under(name, *REACHING):
                found = (
                    o for o in others if under(o, *hidden.split()) and not under(o, *but.split())
                )
                wrong += [f"{name} imports {other}" for other in found]
    return wrong


def circle(graph: dict[str, frozenset[str]]) -> list[str]:
    """The modules of a circle; none if there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def homeless(names: Iterable[str]) -> list[str]:
    """The modules that stand in no room."""
    return [name for name in names if not room_of(name)]


def test_every_file_stands_in_a_room_and_every_room_has_one():
    assert not homeless(modules())
    assert not FLOOR.keys() - {room_of(name) for name in modules()}


def test_imports_go_downwards():
    assert not upward(graph())


def test_no_file_stands_in_a_circle():
    assert not circle(graph())


def test_a_file_has_a_name_that_no_other_room_uses():
    """But for what is the same thing in each: a command line, a base class, what can be said of the
    room's work, the run of a training.
    """
    files = [path.stem for path in modules().values() if path.stem != "__init__"]
    several = {name for name in files if files.count(name) > 1}
    assert several == {"__main__", "base", "cli", "options", "run"}


def test_rooms_see_no_more_than_they_need():
    assert not unseen(graph())


@pytest.mark.parametrize(
    ("name", "other", "finds"),
    [
        ("seer.data.crops.kernel", "seer.data.crops.augment", circle),  # which imports it
        ("launch.job", "launch.launches", upward),
        ("seer.errors", "seer.cli", upward),
        ("seer.engine.loop", "seer.methods.swav", upward),
        ("seer.eval.probes.knn", "seer.engine.loop", unseen),
        ("seer.pretrain.run", "launch.queue", unseen),
    ],
)
def test_a_wrong_import_is_found(name, other, finds):
    wrong = {**graph(), name: graph()[name] | {other}}
    assert finds(wrong)
    assert not finds(graph())


@pytest.mark.parametrize(
    "name", ["seer.extra", "seer.data.extra", "seer.rooms.extra", "shards.extra", "launch.extra"]
)
def test_a_file_in_no_room_is_found(name):
    assert homeless([*modules(), name]) == [name]
    assert not homeless(["seer.engine.extra", "shards.sources.deeper.extra"])


def test_the_imports_of_a_file_are_found_wherever_they_stand(tmp_path):
    path = tmp_path / "file.py"
    path.write_text(
        "import seer.errors\n"
        "from seer import files as shared, __version__\n"
        "if TYPE_CHECKING:\n    from seer.engine.loop import train\n"
        "def late():\n    import os, seer.cli as cli\n"
    )
    known = {"seer", "seer.errors", "seer.files", "seer.engine.loop", "seer.cli", "seer.eval"}
    assert set(imported(path, known)) == known - {"seer.eval"}


def test_the_command_line_imports_nothing_heavy_until_a_verb_runs():
    top = set[str]()
    for path in (ROOT / "seer/cli.py", *(ROOT / "seer/verbs").glob("*.py")):
        body = ast.parse(path.read_text()).body
        top |= {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
        top |= {str(node.module) for node in body if isinstance(node, ast.ImportFrom)}
    assert top <= {
        "collections.abc",
        "contextlib",
        "dataclasses",
        "json",
        "shlex",
        "sys",
        "os",
        "pathlib",
        "typing",
        "typer",
        "launch.cli",
        "seer",
        "seer.commands",
        "seer.errors",
        "seer.eval.tasks",
        "seer.readiness",
        "seer.start",
        "seer.terminal",
        "seer.verbs",
        "seer.verbs.options",
        "shards.cli",
    }


def unpickles(call: ast.Call) -> bool:
    """Whether a call may run code that a file holds; `torch.load` may not with `weights_only=True`."""
    name = ast.unparse(call.func)
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "torch.load":
        return said.get("weights_only") != "True"
    forbidden = {
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "joblib.load",
        "yaml.load",
        "yaml.unsafe_load",
    }
    return name in forbidden or said.get("allow_pickle", "False") != "False"


def test_nothing_is_unpickled_from_a_file():
    """Launchers may, from jobs of their own; `seer.processes` reads what its ranks send."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)}"
        for package in ("seer", "shards")
        for path in (ROOT / package).rglob("*.py")
        if path != ROOT / "seer/processes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and unpickles(node)
    ]
    assert not wrong
    assert unpickles(ast.parse("torch.load(path)").body[0].value)  # type: ignore[attr-defined]
