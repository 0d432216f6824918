"""Every data set of the table in its owner's layout: what is read is what was written, and what
torchvision reads of the same files.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets as tv

from seer.data.labelled import Labelled
from seer.eval.data.datasets import DATASETS, MANY_SHOT, SUITES, WHOLE
from seer.eval.data.recognition import locate
from seer.eval.data.splitting import load
from tests.kit import owners

SINGLE = sorted(owners.OWNERS.keys() - {"voc07"})


def grey(images: Any, i: int) -> int:
    return int(images.image(i)[-1].mean(axis=0)[0].round())


def contents(images: Labelled) -> list[tuple[int, str]]:
    """Grey and class of each image."""
    return [(grey(images, i), images.classes[label]) for i, label in enumerate(images.labels)]


def parts_of(root: Path) -> dict[str, Labelled]:
    located = locate(root)
    assert located is not None
    assert located.entry.read is not None
    return located.entry.read(located.folder)


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_read_is_what_was_written(tmp_path, name):
    wanted = owners.OWNERS[name](tmp_path)
    located = locate(tmp_path)
    assert located is not None
    assert located.entry.name == name
    assert not located.missing()
    parts = parts_of(tmp_path)
    assert parts.keys() == wanted.keys()
    for split, images in parts.items():
        assert sorted(contents(images)) == sorted(wanted[split])
    assert sorted(parts) == sorted(DATASETS[name].sizes)
    for spelled in (tmp_path, f"{name}:{tmp_path}"):
        splits = load(spelled)
        assert splits.entry is DATASETS[name]
        if WHOLE not in wanted:
            assert sorted(contents(splits.train)) == sorted(wanted["train"])
            assert sorted(contents(splits.test)) == sorted(wanted["test"])


def test_the_binary_version_is_the_same(tmp_path):
    owners.cifar10_binary(tmp_path / "binary")
    owners.cifar10(tmp_path / "pickled")
    binary, pickled = parts_of(tmp_path / "binary"), parts_of(tmp_path / "pickled")
    for split, images in binary.items():
        assert contents(images) == contents(pickled[split])


def of_torchvision(name: str, root: Path, split: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The data set as torchvision reads it."""
    monkeypatch.setattr(tv.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    monkeypatch.setattr(tv.Flowers102, "_check_integrity", lambda self: True)
    trained = split == "train"
    makers = {
        "food101": lambda: tv.Food101(root, split),
        "cifar10": lambda: tv.CIFAR10(root, trained),
        "cifar100": lambda: tv.CIFAR100(root, trained),
        "cars": lambda: tv.StanfordCars(root, split),
        "aircraft": lambda: tv.FGVCAircraft(root, split),
        "dtd": lambda: tv.DTD(root, split),
        "pets": lambda: tv.OxfordIIITPet(root, "trainval" if trained else split),
        "flowers102": lambda: tv.Flowers102(root, split),
        "sun397": lambda: tv.SUN397(root),
        "eurosat": lambda: tv.EuroSAT(root),
        "caltech101": lambda: tv.Caltech101(root),
    }
    return makers[name]()


SPLITS_OF_TORCHVISION = [
    (name, split)
    for name in ("food101", "cifar10", "cifar100", "cars", "aircraft", "dtd", "pets", "flowers102")
    for split in sorted(DATASETS[name].sizes)
]


@pytest.mark.parametrize(("name", "split"), SPLITS_OF_TORCHVISION)
def test_torchvision_reads_the_same_images_and_labels(tmp_path, monkeypatch, name, split):
    owners.OWNERS[name](tmp_path)
    images = parts_of(tmp_path)[split]
    peer = of_torchvision(name, tmp_path, split, monkeypatch)
    theirs = [(np.asarray(image), name_in(peer, label)) for image, label in peer]
    ours = [
        (images.image(i), images.classes[label].lower().replace("_", " "))
        for i, label in enumerate(images.labels)
    ]
    assert len(ours) == len(theirs) > 0
    pairs = zip(sorted(ours, key=mean), sorted(theirs, key=mean), strict=True)
    for (pixels, name_here), (peers_pixels, name_there) in pairs:
        assert np.abs(pixels.astype(int) - peers_pixels).max() <= 2
        assert name_here == name_there


def mean(pair: tuple[np.ndarray, str]) -> float:
    return pair[0].mean()


def name_in(peer: Any, label: int) -> str:
    """The class as torchvision calls it, in lower case; flowers by their numbers."""
    if isinstance(peer, tv.Flowers102):
        return str(label + 1)
    return peer.classes[label].lower().replace("_", " ")


@pytest.mark.parametrize("name", ["sun397", "eurosat", "caltech101"])
def test_torchvision_has_no_splits_of_these_but_the_same_images(tmp_path, monkeypatch, name):
    owners.OWNERS[name](tmp_path)
    (tmp_path / "caltech101/Annotations").mkdir(parents=True, exist_ok=True)
    peer = of_torchvision(name, tmp_path, WHOLE, monkeypatch)
    names = getattr(peer, "classes", getattr(peer, "categories", None))
    theirs = sorted((int(np.asarray(image).mean().round()), names[k]) for image, k in peer)
    ours = [pair for images in parts_of(tmp_path).values() for pair in contents(images)]
    if name == "sun397":  # which leaves the first letter out
        ours = [(number, label.partition("/")[2]) for number, label in ours]
    if name == "caltech101":  # which leaves the background out
        ours = [(number, label) for number, label in ours if label != "BACKGROUND_Google"]
    assert sorted(ours) == theirs


def test_inaturalist_s_folders_are_the_categories(tmp_path):
    owners.inat18(tmp_path)
    (tmp_path / "tv").mkdir()
    (tmp_path / "tv/2018").symlink_to(tmp_path / "train_val2018")
    peer = tv.INaturalist(tmp_path / "tv", version="2018")
    theirs = sorted((int(np.asarray(image).mean().round()), str(number)) for image, number in peer)
    ours = [pair for images in parts_of(tmp_path).values() for pair in contents(images)]
    assert sorted(ours) == theirs


def test_the_suites_are_whole_and_the_splits_add_up():
    of_suite = {suite: [e for e in DATASETS.values() if suite in e.suites] for suite in SUITES}
    assert {suite: len(entries) for suite, entries in of_suite.items()} == dict(
        zip(SUITES, (3, 11, 10, 4, 4, 6), strict=True)
    )
    # Classes and images of all splits, written down apart from the table.
    assert {
        entry.name: (entry.classes, sum(entry.sizes.values())) for entry in of_suite[MANY_SHOT]
    } == {
        "food101": (101, 101_000),
        "cifar10": (10, 60_000),
        "cifar100": (100, 60_000),
        "sun397": (397, 39_700),
        "cars": (196, 16_185),
        "aircraft": (100, 10_000),
        "voc07": (20, 9_963),
        "dtd": (47, 5_640),
        "pets": (37, 7_349),
        "caltech101": (102, 9_144),
        "flowers102": (102, 8_189),
    }
