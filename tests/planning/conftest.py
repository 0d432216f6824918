"""The planner is tested on a published network, whose stages have blocks to checkpoint."""

from pathlib import Path

import pytest

from tests.kit.runs import TINY


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """The path of a recipe of SwAV on `regnety_002`."""
    path: Path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(TINY)
    return str(path)
