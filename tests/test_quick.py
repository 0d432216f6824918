"""Which tests `make quick` takes for the work at hand."""

from pathlib import Path

import pytest

from tests.kit import changed as work
from tests.kit.changed import ALWAYS


@pytest.mark.parametrize(
    ("changed", "tests"),
    [
        ("seer/data/order.py", "tests/data/test_order.py"),
        ("seer/data/crops/draws.py", "tests/data/crops/test_draws.py"),
        ("seer/methods/prototypes.py", "tests/methods"),  # without tests of its own: its room's
        ("shards/verify.py", "tests/shards/test_verify.py"),
        ("configs/pretrain/swav_small.yaml", "tests/pretrain/test_recipe.py"),
        ("tests/engine/tiny.py", "tests/engine"),  # what the room's tests share
        ("tests/engine/test_optim.py", "tests/engine/test_optim.py"),
        ("README.md", "tests/test_documents.py"),
    ],
)
def test_a_file_is_tested_by_its_mirror(changed, tests):
    assert Path(changed).exists()
    assert work.tests_of([Path(changed)]) == sorted([*ALWAYS, tests])


@pytest.mark.parametrize(
    "changed", ["Makefile", "configs/quickstart.yaml", "tests/slurm/conftest.py"]
)
def test_what_no_test_mirrors_takes_those_that_look_at_everything(changed):
    assert work.tests_of([Path(changed)]) == ALWAYS
    assert work.tests_of([]) == ALWAYS


def test_a_folder_stands_for_what_is_in_it():
    changed = [Path("tests/engine/tiny.py"), Path("seer/engine/optim.py")]
    assert work.tests_of(changed) == sorted([*ALWAYS, "tests/engine"])


@pytest.mark.parametrize("changed", ["CONTRIBUTING.md", "seer/eval/tasks.py"])
def test_what_the_page_for_contributors_shows_is_tested_by_it(changed):
    assert "tests/test_contributing.py" in work.tests_of([Path(changed)])
