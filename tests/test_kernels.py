"""Where kernels of our own run, and where PyTorch does their work."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from seer import kernels
from seer.kernels import kernels_for
from tests.kit.interpreter import run_interpreted, starts_interpreter

CPU = torch.device("cpu")


@pytest.mark.slow
@starts_interpreter
def test_kernels_in_the_interpreter():
    """Those of all rooms at once: the process imports torch."""
    run_interpreted(Path(__file__).parent)


@pytest.fixture
def imported(monkeypatch):
    """Modules of kernels by their names, and a CPU that has them."""
    modules = {}
    monkeypatch.setattr(kernels, "DEVICES", {"cpu"})
    monkeypatch.setattr(kernels, "import_module", lambda name: modules[name])
    kernels_for.cache_clear()
    yield modules
    kernels_for.cache_clear()


def test_they_are_tried_once(imported):
    attempts = []
    imported["some.kernels"] = SimpleNamespace(attempt=attempts.append)
    found = [kernels_for(CPU, "some.kernels", "crops") for _ in range(3)]
    assert found == [imported["some.kernels"]] * 3
    assert attempts == [CPU]


def test_what_cannot_run_is_told_once(imported, caplog):
    def fail(device):
        raise RuntimeError("Failed to find C compiler\nsecond line")

    imported["some.kernels"] = SimpleNamespace(attempt=fail)
    assert [kernels_for(CPU, "some.kernels", "crops") for _ in range(3)] == [None] * 3
    assert kernels_for(CPU, "other", "grouped convolutions") is None
    assert [record.getMessage() for record in caplog.records] == [
        "crops on cpu go the slow way, by PyTorch (RuntimeError: Failed to find C compiler)",
        "grouped convolutions on cpu go the slow way, by PyTorch (KeyError: 'other')",
    ]


def test_elsewhere_nothing_is_imported(monkeypatch, caplog):
    monkeypatch.setattr(kernels, "import_module", lambda name: pytest.fail("imported"))
    assert kernels_for(torch.device("meta"), "some.kernels", "crops") is None
    assert not caplog.records
