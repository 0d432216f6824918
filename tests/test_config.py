from dataclasses import dataclass, field
from typing import Any

import pytest
from omegaconf import MISSING

from seer import config
from seer.errors import InputError


@dataclass
class Crop:
    size: int = 224
    scale: list[float] = field(default_factory=lambda: [0.1, 1.0])


@dataclass
class A:
    name: str = "a"
    epsilon: float = 0.05


@dataclass
class B:
    name: str = "b"
    momentum: float = 0.99


@dataclass
class Toy:
    data: str = MISSING
    steps: int = 10
    views: dict[str, Crop] = field(default_factory=lambda: {"large": Crop(), "small": Crop(size=96)})
    method: Any = field(default_factory=A)


VARIANTS = {"method": {"a": A, "b": B}}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "base.yaml").write_text("data: base\nsteps: 5\nviews: {small: {size: 64}}\n")
    (tmp_path / "toy.yaml").write_text("base: base.yaml\nsteps: 7\nmethod: {name: b, momentum: 0.5}\n")
    return str(tmp_path / "toy.yaml")


def load(recipe, *overrides):
    return config.load(Toy, recipe, list(overrides), VARIANTS)


def hash_of(toy):
    return config.config_hash(config.to_dict(toy))


def test_later_layers_win_and_every_value_is_typed(recipe):
    toy = load(recipe, "views.large.size=32", "method.momentum=1e-1")
    assert toy == Toy("base", 7, {"large": Crop(32), "small": Crop(64)}, B(momentum=0.1))


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
        ("steps=many", r"steps: Value 'many'"),
        ("steps=1.5", r"steps: Value '1.5'"),
        ("steps", r"override 'steps': expected key=value"),
        ("views=3", r"views: "),
        ("views.large.scale=[0.1", r"overrides views\.large\.scale=\[0\.1"),
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
        ("base: none.yaml", "none.yaml does not exist"),
        ("stps: 3", r"stps: unknown key \(did you mean 'steps'\?\)"),
        ("views: {large: {siz: 3}}", r"views\.large\.siz: unknown key \(did you mean 'size'\?\)"),
        ("method: {momentun: 3}", r"method\.momentun: unknown key"),
        ("steps: many", r"steps: Value 'many'"),
        ("views: {large: 3}", r"toy\.yaml: .*int is not a subclass of Crop"),
        ("steps: ${other}", r"steps: Interpolation key 'other' not found"),
        ("data: ${", r"data: no viable alternative"),
    ],
)
def test_a_broken_recipe(tmp_path, text, message):
    (tmp_path / "toy.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load(str(tmp_path / "toy.yaml"))
    assert "\n" not in str(error.value)


def test_a_saved_configuration_that_cannot_be_read(tmp_path):
    (tmp_path / "config.yaml").write_text("data: ${nowhere}\n")
    with pytest.raises(InputError, match="data: Interpolation key 'nowhere' not found"):
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
    old = {"seed": 1, "run_dir": "a", "parallel": {"mode": "ddp"}, "loader": {"workers": 2, "window": 8}}
    new = {"seed": 1, "run_dir": "b", "parallel": {"mode": "fsdp"}, "loader": {"workers": 9, "window": 8}}
    assert not config.differences(old, new)
    assert config.config_hash(old) == config.config_hash(new) != config.config_hash(old | {"seed": 2})
