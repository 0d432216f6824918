"""What many tests share: a small set of shards, and a recipe that trains in seconds."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seer import distributed, forkserver
from tests.kit.pictures import jpeg, photograph
from tests.kit.runs import tiny_recipe


def pytest_configure() -> None:
    # Tests start processes of their own; each of them with all cores would only get in the others'
    # way.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    # One server forks the ranks and the loaders' workers of all tests, so it imports what any of
    # them needs: what it lacks, each of hundreds of processes would import by itself.
    everything = [*forkserver.TRAINING, *forkserver.LOADING, "tests.kit.warm", "pytest"]
    forkserver.TRAINING[:] = forkserver.LOADING[:] = everything


@pytest.fixture(scope="session", autouse=True)
def rehearsals() -> None:
    from tests.kit.rehearsals import rehearse_once

    rehearse_once()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A run that fails in this process leaves its world, which the next test would find itself in; and
    sums of more threads than the next test has differ in their last bits.
    """
    yield
    if distributed._world is not None:
        distributed.shutdown()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert threads == 1, "the test left PyTorch with another number of threads than it found"


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Class folders: train/{a,b}/*.jpg with 40 images, test/{a,b}/*.jpg with 16."""
    root = tmp_path_factory.mktemp("images")
    for split, count in {"train": 40, "test": 16}.items():
        for i in range(count):
            path = root / split / "ab"[i % 2] / f"{i:03d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(photograph(1000 * (split == "test") + i)))
    return root


@pytest.fixture(scope="session")
def shards(folder, tmp_path_factory) -> Path:
    """The training images of `folder` as three shards."""
    from shards.build import BuildOptions, build

    out = tmp_path_factory.mktemp("shards")
    build([str(folder / "train")], out, BuildOptions(shard_size=16, workers=1))
    return out


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """The path of a recipe that makes five steps of SwAV in a second.

    A command that is started, not forked, does not know its backbone, and takes `regnety_002`.
    """
    return tiny_recipe(tmp_path_factory.mktemp("recipes"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with slow tests first, so that two processes end together."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
