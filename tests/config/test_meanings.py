"""`seer config`: what it prints is true, complete, and can be given back."""

import shlex
from collections import Counter
from dataclasses import dataclass

import pytest

from seer.config import flatten, recipes, to_dict
from seer.config.meanings import FIRST, attributes, first_ones_first, meanings, under
from seer.errors import InputError
from seer.pretrain.recipe import load_config


@dataclass
class Base:
    """Options of a base. `depth` and `width` are sizes; `colour` is another matter.

    Attributes:
        speed: how fast
            it is: in m/s.
        first, second: the two.
    """


@dataclass
class Derived(Base):
    """It says more of `width`.

    Attributes (and those of `Base`):
        second: the other one.
    """


def test_what_docstrings_say():
    texts = attributes(Derived)
    assert texts["speed"] == "how fast it is: in m/s."
    assert texts["first"] == "the two."
    assert texts["second"] == "the other one."
    assert texts["depth"] == "`depth` and `width` are sizes;"
    assert texts["colour"] == "`colour` is another matter."
    assert texts["width"] == "It says more of `width`."


@pytest.mark.parametrize("recipe", recipes())
def test_every_key_has_a_meaning_and_its_value_can_be_given_back(recipe):
    config = load_config(recipe, ["data=SHARDS"])
    rows = meanings(config)
    assert {row.key: row.value for row in rows} == flatten(to_dict(config))
    assert [row.key for row in rows if not row.meaning] == []
    words = [row.lines()[0] for row in rows]
    given = [word for line in words for word in shlex.split(line)]
    assert load_config(recipe, [w for w in given if not w.startswith("epochs=")]) == config


@pytest.mark.parametrize("recipe", ["swav_small", "simclr_resnet50", "byol_resnet50"])
def test_no_two_keys_of_a_section_share_a_sentence(recipe):
    rows = meanings(load_config(recipe, ["data=SHARDS"]))
    sentences = [
        (row.key.rpartition(".")[0], row.meaning) for row in rows if row.key not in ("mean", "std")
    ]
    assert [each for each, count in Counter(sentences).items() if count > 1] == []


def test_what_everybody_needs_comes_first():
    rows = meanings(load_config("swav_small", ["data=SHARDS"]))
    ordered = first_ones_first(rows)
    assert tuple(row.key for row in ordered[: len(FIRST)]) == FIRST
    assert ordered[len(FIRST) :] == [row for row in rows if row.key not in FIRST]


def test_keys_that_are_named():
    rows = meanings(load_config("swav_small", ["data=SHARDS"]))
    assert {row.key for row in under(["schedule"], rows)} >= {"schedule.peak", "schedule.warmup"}
    assert [row.key for row in under(["views.large.size", "seed"], rows)] == [
        "seed",
        "views.large.size",
    ]
    assert under([], rows) == rows
    with pytest.raises(InputError, match=r"shedule: unknown key.*schedule"):
        under(["shedule"], rows)
