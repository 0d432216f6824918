"""Shards written by hand with the standard library, so that the data path is tested without the
`shards` package.
"""

import pytest

from seer.data.storage.index import Manifest
from tests.kit.shards import write_shards


@pytest.fixture
def shards(tmp_path) -> Manifest:
    """Forty samples in four shards, one of which is empty."""
    return write_shards(tmp_path / "shards", [11, 0, 17, 12])
