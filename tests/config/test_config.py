from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seer import config
from seer.errors import InputError
from seer.interop import models
from seer.pretrain.recipe import Pretrain
from seer.schema import (
    AREAS,
    Integer,
    ListOf,
    Location,
    MapOf,
    Maybe,
    Number,
    Text,
    option,
    required,
)


@dataclass
class Crop:
    size: int = option(224, Integer(1))
    scale: list[float] = option([0.1, 1.0], AREAS)


@dataclass
class A:
    name: str = option("a", Text())
    epsilon: float = option(0.05, Number(0))


@dataclass
class B:
    name: str = option("b", Text())
    momentum: float = option(0.99, Number(0, 1))


@dataclass
class Toy:
    data: str = required(Location())
    steps: int = option(10, Integer(1))
    label: str = option("toy", Text())
    half: bool = False
    warmup: int | float = option(0, Number(0))
    limit: int | None = option(None, Maybe(Integer(1)))
    where: str = option("runs/${label}", Location())
    tags: list[str] = option([], ListOf(Text()))
    variables: dict[str, str] = option({}, MapOf(Text()))
    views: dict[str, Crop] = field(
        default_factory=lambda: {"large": Crop(), "small": Crop(size=96)}
    )
    method: Any = field(default_factory=A)


VARIANTS = {"method": {"a": A, "b": B}}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "base.yaml").write_text("data: base\nsteps: 5\nviews: {small: {size: 64}}\n")
    (tmp_path / "toy.yaml").write_text(
        "base: base.yaml\nsteps: 7\nmethod: {name: b, momentum: 0.5}\n"
    )
    return str(tmp_path / "toy.yaml")


def load(recipe, *overrides):
    return config.load(Toy, recipe, list(overrides), VARIANTS)


def hash_of(toy):
    return config.config_hash(config.to_dict(toy))


def test_later_layers_win_and_every_value_is_typed(recipe):
    toy = load(recipe, "views.large.size=32", "method.momentum=1e-1")
    views = {"large": Crop(32), "small": Crop(64)}
    assert toy == Toy(data="base", steps=7, where="runs/toy", views=views, method=B(momentum=0.1))


def test_saved_and_loaded_is_the_same(recipe, tmp_path):
    toy = load(recipe, "steps=3")
    config.save(toy, tmp_path / "saved.yaml")
    again = load(str(tmp_path / "saved.yaml"))
    assert again == toy
    assert hash_of(again) == hash_of(toy) != hash_of(load(recipe))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stps=3", r"stps: unknown key \(did you mean 'steps'\?\)"),
        ("views.large.siz=3", r"views\.large\.siz: unknown key \(did you mean 'size'\?\)"),
        ("views.larg.size=3", r"views\.larg: unknown key \(did you mean 'large'\?\)"),
        ("method.momentun=3", r"method\.momentun: unknown key \(did you mean 'momentum'\?\)"),
        ("method.name=c", r"method\.name: 'c' is unknown"),
        ("steps=many", r"steps: 'many' is not a whole number, 1 or more"),
        ("steps=1.5", r"steps: '1.5' is not a whole number, 1 or more"),
        ("steps=0", r"steps: 0 is not a whole number, 1 or more"),
        ("steps=0123", r"steps: '0123' is not a whole number"),  # 83 in YAML, 123 to anyone else
        ("steps=" + "9" * 5000, r"steps: '9999.* is not a whole number"),
        ("steps=", r"steps: '' is not a whole number"),
        ("half=1", r"half: '1' is not true or false"),
        ("limit=0", r"limit: 0 is not"),
        ("steps", r"'steps': expected key=value"),
        ("views=3", r"views: "),
        ("views={larg: {size: 3}}", r"views\.larg: unknown key \(did you mean 'large'\?\)"),
        ("views.large.scale=0.1", r"views\.large\.scale: '0.1' is not a list of 2"),
        ("views.large.scale=[0.1", r"views\.large\.scale: not readable as YAML"),
        ("views.large.scale=[0.1,b]", r"views\.large\.scale\[1\]: 'b' is not a number"),
        ("views.large.scale=[1,0.1]", r"views\.large\.scale: its values must rise"),
        (".=3", "expected key=value"),
        ("a" + ".a" * 10_000 + "=3", "no key has so many parts"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_place(recipe, override, message):
    with pytest.raises(InputError, match=message) as error:
        load(recipe, override)
    assert "\n" not in str(error.value)


def test_a_value_that_nobody_gave(tmp_path):
    (tmp_path / "toy.yaml").write_text("steps: 1\n")
    with pytest.raises(InputError, match="data: not set"):
        load(str(tmp_path / "toy.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not readable as YAML"),
        ("- 1\n", "expected keys"),
        ("base: none.yaml", "'none.yaml' does not exist"),
        ("base: [a.yaml]", "base: expected the name"),
        ("steps: 1\nsteps: 2", "line 2: a key that stands there already"),
        ("label: null", "label: null is no text"),
        ("label: [a]", "label: a list of 1 is not a text"),
        ("label: !!python/object/apply:os.system [x]", "line 1: a tag"),
        ("stps: 3", r"stps: unknown key \(did you mean 'steps'\?\)"),
        ("views: {large: {siz: 3}}", r"views\.large\.siz: unknown key \(did you mean 'size'\?\)"),
        ("method: {momentun: 3}", r"method\.momentun: unknown key"),
        (
            "method: {name: b, epsilon: 0.1}",
            r"method\.epsilon: b has no such option, which is one of a; begin from a recipe of b, or give the whole",
        ),
        ("steps: many", r"steps: 'many' is not a whole number"),
        ("views: {large: 3}", r"views\.large: expected keys with values"),
        ("steps: ${other}", r"steps: it refers to 'other', which is no key that has a value"),
        ("data: ${", r"data: '\$\{' begins a reference"),
    ],
)
def test_a_broken_recipe(tmp_path, text, message):
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load(str(tmp_path / "toy.yaml"))
    assert "\n" not in str(error.value)


def test_a_saved_configuration_that_cannot_be_read(tmp_path):
    (tmp_path / "config.yaml").write_text("data: ${nowhere}\n")
    with pytest.raises(InputError, match="data: it refers to 'nowhere', which is no key"):
        config.read(tmp_path / "config.yaml")


def test_a_circle_of_bases(tmp_path):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(InputError, match="leads back to itself"):
        load(str(tmp_path / "a.yaml"))


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'swav_small'"):
        config.find_recipe("swav_smal")


def test_differences_name_keys_and_both_values():
    old, new = {"a": 1, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 5, "d": 3}}
    assert [str(d) for d in config.differences(old, new)] == ["b.c is 2 there and 5 here"]


def test_what_does_not_change_what_is_learned_is_neither_a_difference_nor_in_the_hash():
    old = {
        "seed": 1,
        "run_dir": "a",
        "parallel": {"mode": "ddp"},
        "loader": {"workers": 2, "window": 8},
    }
    new = {
        "seed": 1,
        "run_dir": "b",
        "parallel": {"mode": "fsdp"},
        "loader": {"workers": 9, "window": 8},
    }
    free = config.incidental(Pretrain)
    assert not config.differences(old, new, free)
    assert (
        config.config_hash(old, free)
        == config.config_hash(new, free)
        != config.config_hash(old | {"seed": 2}, free)
    )
    assert config.differences(old, new)
    assert config.config_hash(old) != config.config_hash(new)


def test_what_is_incidental_to_a_pretraining_is_so_to_a_model_that_comes_from_one():
    free = config.incidental(Pretrain)
    assert free == models.FREE
    assert free == {
        *("run_dir", "name", "epochs", "device", "log", "checkpoint", "health", "score"),
        *(
            f"parallel.{key}"
            for key in ("mode", "checkpointing", "shard_group", "compile", "channels_last")
        ),
        *(
            f"loader.{key}"
            for key in ("workers", "mode", "prefetch", "fetch", "cache_dir", "cache_gb")
        ),
    }


def test_a_long_chain_of_bases(tmp_path):
    for i in range(10_000):
        (tmp_path / f"{i}.yaml").write_text(f"base: {i + 1}.yaml\n")
    with pytest.raises(InputError, match="a chain of more than 16 bases"):
        load(str(tmp_path / "0.yaml"))


def test_what_a_base_holds_is_not_quoted(tmp_path):
    (tmp_path / "toy.yaml").write_text("base: secret.yaml\n")
    for text in (
        "root:hunter2:0\nfoo: bar: 'hunter2'",
        "[default]\nkey = hunter2",
        "*hunter2",
        "!hunter2 x",
        "hunter2",
        "root:$6$hunter2:1:::\nx: 1",
        "$hunter2: 1\n$hunter2: 2",
    ):
        (tmp_path / "secret.yaml").write_text(text)
        with pytest.raises(InputError, match=r"secret\.yaml|\.\.\.: unknown key") as error:
            load(str(tmp_path / "toy.yaml"))
        assert "hunter2" not in str(error.value)


TEXTS = [
    "runs/x #2", "0123", "on", "No", "12:30:45", "1e3", "null", "~", "", " trailing ", "a: b", "[x", "{x", "]", "- a",
    "'quoted'", '"', "it's", "${name}", "$${name}", "$$${", "${oc.env:HOME}", "${", "!tag", "&a", "*a", "%x", "@x", "`",
    "2021-01-01", "0x10", "<<", "=", "?", "|", ">", ".inf", "é\u2028\x85", "a\nb\n", "\t", "\ufeff", "\U0001f600", "#",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_on_the_command_line_stays_as_it_is(tmp_path, text):
    check_survival(tmp_path, text)


PRINTABLE = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("#:[]{}$'\"\n ~-"), max_size=20
)


@settings(max_examples=60, deadline=None)
@given(text=PRINTABLE)
def test_any_text_on_the_command_line_stays_as_it_is(tmp_path_factory, text):
    check_survival(tmp_path_factory.mktemp("text"), text)


def check_survival(folder, text):
    """Whether a text that was given survives being given, saved, read and loaded again."""
    (folder / "toy.yaml").write_text("data: x\n")
    toy = load(str(folder / "toy.yaml"), f"label={text}", f"variables.A={text}", "where=${label}")
    assert (toy.label, toy.variables, toy.where) == (text, {"A": text}, "${label}")
    config.save(toy, folder / "saved.yaml")
    assert load(str(folder / "saved.yaml")) == toy
    assert not config.differences(config.read(folder / "saved.yaml"), config.to_dict(toy))


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("half=on", "half", True),
        ("half=FALSE", "half", False),
        ("steps=1_000", "steps", 1000),
        ("warmup=3", "warmup", 3),
        ("warmup=0.25", "warmup", 0.25),
        ("warmup=1e-3", "warmup", 0.001),
        ("limit=null", "limit", None),
        ("limit=5", "limit", 5),
        ("tags=[a b, 012, on, 'x, y', null]", "tags", ["a b", "012", "on", "x, y", "null"]),
        ("variables={A: 012, B: 'on'}", "variables", {"A": "012", "B": "on"}),
        ("where=~/x", "where", "/home/me/x"),
        ("where=x/~", "where", "x/~"),
        ("label=~/x", "label", "~/x"),
    ],
)
def test_a_value_is_read_as_what_its_option_is(recipe, monkeypatch, override, key, value):
    monkeypatch.setenv("HOME", "/home/me")
    toy = load(recipe, override)
    assert getattr(toy, key) == value
    assert type(getattr(toy, key)) is type(value)


def test_in_a_recipe_a_text_is_what_stands_there(tmp_path):
    (tmp_path / "toy.yaml").write_text(
        "data: 0123\nlabel: on\nwhere: 12:30:45\ntags: [1, 'null', 2021-01-01]\nlimit:\n"
    )
    toy = load(str(tmp_path / "toy.yaml"))
    assert (toy.data, toy.label, toy.where, toy.limit) == ("0123", "on", "12:30:45", None)
    assert toy.tags == ["1", "null", "2021-01-01"]


def test_merge_keys_and_aliases(tmp_path):
    (tmp_path / "toy.yaml").write_text(
        "data: x\nviews:\n  large: &l {size: 9}\n  other: {<<: *l, scale: [0.5, 1]}\n"
    )
    views = load(str(tmp_path / "toy.yaml")).views
    assert (views["large"], views["other"]) == (Crop(9), Crop(9, [0.5, 1.0]))


def test_later_overrides_win_over_earlier_ones(recipe):
    toy = load(
        recipe, "views={large: {size: 3}}", "views.large.scale=[0.5,1]", "steps=3", "steps=4"
    )
    assert (toy.views["large"], toy.steps) == (Crop(3, [0.5, 1.0]), 4)


def test_what_an_older_seer_saved_is_read_as_it_meant_it(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "data: '0123'\nsteps: 1000\nlabel: 'on'\nhalf: true\nwarmup: 1.0e-06\nwhere: runs/x\ntags:\n- '1e3'\n- ''\n"
        "views:\n  large:\n    size: 224\n    scale:\n    - 0.1\n    - 1.0\nmethod:\n  name: b\n  momentum: 0.5\n"
    )
    values = config.read(tmp_path / "config.yaml")
    assert (values["data"], values["label"], values["half"], values["warmup"]) == (
        "0123",
        "on",
        True,
        1e-6,
    )
    assert (values["tags"], values["views"]["large"]["scale"]) == (["1e3", ""], [0.1, 1.0])
    assert load(str(tmp_path / "config.yaml")).tags == ["1e3", ""]
