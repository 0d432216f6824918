"""Recipes, a run's config.yaml and clusters' profiles as somebody else may have written them."""

import os
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launch import profile
from seer import config
from seer.pretrain.recipe import Pretrain, load_config
from seer.schema import Integer, MapOf, Plain, Record, Text, kind_of
from tests.kit.fuzzing import World, damaged_bytes, fuzz, trial
from tests.kit.strategies import HOSTILE, damaged
from tests.test_options import options_of

READERS = {
    "recipe": lambda path: load_config(str(path), ["data=x", "steps=1"]),
    "run": config.read,
    "profile": lambda path: profile.load(str(path), []),
}
SCHEMAS = {"recipe": Pretrain, "run": Pretrain, "profile": profile.Profile}
SEEDS = {
    "recipe": config.recipes()["swav_small"].read_bytes(),
    "run": config.recipes()["swav_regnety_10b"].read_bytes(),
    "profile": profile.profiles()["a100"].read_bytes(),
}
FRAGMENTS = [
    b"base: ../../x.yaml\n", b"base: base.yaml\n", b"base: /etc/shadow\n", b"&a [*a]", b"*a", b"<<: *a\n", b"? [x]\n",
    b"!!python/object/apply:os.system [id]", b"${name}", b"${oc.env:HOME}", b"${", b"$${", b"\x00", b"\xff",
    b"\xef\xbb\xbf", b"\t", b"---\n", b"%YAML 9.9\n", b"'", b'"', b"[" * 2000, b"{a: " * 2000, b"- " * 2000,
    b"a: &a [x, x]\nb: [*a, *a]\n",
    b"steps: 1\n", b"0: 1\n", b"null: 1\n", b"1e999", b"9" * 5000, b"|\n", b">-\n", b"\xe2\x80\xa8", b"\xed\xa0\x80",
]  # fmt: skip


def nested(options: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted keys as the mappings of a file."""
    tree: dict[str, Any] = {}
    for key, value in options.items():
        *parents, name = key.split(".")
        below = tree
        for parent in parents:
            below = below.setdefault(parent, {})
        below[name] = value
    return tree


@st.composite
def layers(draw: st.DrawFn, kind: str) -> bytes:
    """A file with a few options of their kinds, one of them damaged, and one thing that no schema
    knows.
    """
    declared = options_of(SCHEMAS[kind])
    keys = draw(st.lists(st.sampled_from(sorted(declared)), max_size=6, unique=True))
    tree = nested({key: draw(damaged(kind_of(declared[key]))) for key in keys})
    anything = draw(damaged(Record({}, {"base": Text(), "method": MapOf(Plain()), "x": Integer()})))
    tree |= anything if isinstance(anything, dict) else {}
    if draw(st.booleans()):
        tree[draw(st.sampled_from(["name", "views", "optim", "environment"]))] = draw(
            st.sampled_from(HOSTILE)
        )
    return yaml.dump(tree, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def texts(draw: st.DrawFn, kind: str) -> bytes:
    """A shipped file with damage, and fragments that mean something to YAML put anywhere."""
    content = draw(damaged_bytes(SEEDS[kind]))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(st.sampled_from(FRAGMENTS)) + content[place:]
    return content


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("made", [layers, texts], ids=["schema", "bytes"])
def test_a_strangers_file_is_taken_or_refused_in_one_line(kind, made, tmp_path_factory):
    @fuzz(25)
    @given(content=made(kind))
    def hold(content):
        world = World(tmp_path_factory.mktemp("world"))
        path = world.folder / "x.yaml"
        path.write_bytes(content)
        (world.folder / "base.yaml").write_bytes(b"base: x.yaml\n")
        trial(world, READERS[kind], path)

    hold()


BOMBS = {
    "aliases": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)),
    "merges": "a0: &a0 {x: 1}\n"
    + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)),
    "deep lists": "a: " + "[" * 100_000,
    "deep mappings": "a: " + "{a: " * 50_000,
    "deep blocks": "".join(f"{' ' * i}a:\n" for i in range(600)),
    "itself": "a: &a {b: *a}",
    "many": "\n".join(f"k{i}: {i}" for i in range(8_000)),
    "one long key": "x" * 200_000 + ": 1",
    "one long text": "init: " + "x" * 200_000,
    "huge": "# " + "x" * 10_000_000,
    "many quotes": "a: [" + "'x', " * 15_000 + "]",
    "references": "".join(f"a{i}: ${{a{i + 1}}}${{a{i + 1}}}\n" for i in range(60)) + "a60: x",
    "many references": "init: " + "${batch_size}" * 10_000 + "\nbatch_size: 12",
    "many unclosed": "init: " + "${" * 100_000,
    "digits": "batch_size: " + "9" * 200_000,
    "underscores": "batch_size: " + "1_" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_defused(kind, bomb, tmp_path):
    world = World(tmp_path / "world")
    path = world.folder / "x.yaml"
    path.write_text(BOMBS[bomb])
    said = trial(world, READERS[kind], path)
    assert said or kind == "run"  # what a run's file says beyond what is asked of it is let be
    assert len(said) < 600


@pytest.mark.parametrize("kind", READERS)
def test_only_regular_files_are_read(kind, tmp_path):
    world = World(tmp_path / "world")
    os.mkfifo(world.folder / "pipe.yaml")
    (world.folder / "zero.yaml").symlink_to("/dev/zero")
    (world.folder / "folder.yaml").mkdir()
    (world.folder / "loop.yaml").symlink_to("loop.yaml")
    for name in ("pipe", "zero", "folder", "loop", "nothing"):
        assert trial(world, READERS[kind], world.folder / f"{name}.yaml", seconds=5)
    (world.folder / "base.yaml").write_text("base: pipe.yaml")
    assert "not a regular file" in trial(
        world, READERS[kind], world.folder / "base.yaml", seconds=5
    )
