"""What stands in a registry as a name is imported when it is asked for, and not before."""

import sys

import pytest

from seer.registry import Later, Registry


def test_names_are_known_without_importing_and_things_once_asked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    registry: Registry = Registry({"hue": Later("colorsys.rgb_to_hls"), "own": abs})
    assert list(registry) == ["hue", "own"]
    assert "hue" in registry
    assert "blue" not in registry
    assert "colorsys" not in sys.modules

    assert registry["own"](-1) == 1
    assert registry["hue"](1, 1, 1) == (0.0, 1.0, 0.0)
    assert "colorsys" in sys.modules
    with pytest.raises(KeyError):
        registry["blue"]


def test_first_arguments_are_given_with_the_name():
    registry: Registry = Registry({"grey": Later("colorsys.rgb_to_hls", 0.5, 0.5)})
    assert registry["grey"](0.5) == (0.0, 0.5, 0.0)


def test_entries_are_set_and_removed():
    registry: Registry = Registry({})
    registry["later"] = Later("colorsys.rgb_to_hls")
    registry["now"] = 3
    assert dict(registry.items())["now"] == 3
    del registry["later"]
    assert len(registry) == 1
