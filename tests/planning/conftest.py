"""A published network, whose stages have blocks to checkpoint, and which other processes know."""

from pathlib import Path

import pytest

from tests.kit.runs import TINY


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> str:
    """The path of a recipe of SwAV on `regnety_002`."""
    path: Path = tmp_path_factory.mktemp("published") / "published.yaml"
    path.write_text(TINY)
    return str(path)
