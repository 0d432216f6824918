import json
import logging
import os
import re
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seer.data.labelled import load_labelled
from seer.eval.probes import feature_cache
from seer.eval.probes.features import FeatureConfig, cache_key, extract
from tests.eval.conftest import small_model


@pytest.fixture
def images(data):
    return load_labelled(data, "test")


def cached(model, images):
    """The features, and the file in which they are kept."""
    features = extract(model, images, FeatureConfig())
    return features, feature_cache.path_of(cache_key(model, images, FeatureConfig()))


def claims(path) -> dict:
    with feature_cache.open_safetensors(path) as file:
        return json.loads(file.metadata["seer"])


def test_features_come_back_as_they_were(images, caplog):
    model = small_model()
    features, path = cached(model, images)
    assert path.is_file()
    assert torch.equal(extract(model, images, FeatureConfig()), features)
    assert model.backbone.seen == len(images)
    assert not caplog.records


def test_features_in_memory_are_kept_as_long_as_that(images):
    model = small_model()
    with feature_cache.in_memory():
        features, path = cached(model, images)
        assert extract(model, images, FeatureConfig()) is features
        assert model.backbone.seen == len(images)
        assert not path.exists()
    assert torch.equal(extract(model, images, FeatureConfig()), features)
    assert model.backbone.seen == 2 * len(images)


def test_any_flipped_bit_is_noticed(images):
    model = small_model()
    features, path = cached(model, images)
    key = cache_key(model, images, FeatureConfig())
    content = path.read_bytes()
    random = torch.Generator().manual_seed(0)
    for place in torch.randint(8 * len(content), (300,), generator=random).tolist():
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        kept = feature_cache.load(key, len(images))
        # A space of the header may be another one.
        assert kept is None or torch.equal(kept, features)


REPLACED = {
    "no claims": lambda values, about: (values, None),
    "others": lambda values, about: (values + 1, about),
    "NaN": lambda values, about: (
        values * torch.nan,
        about | {"sha256": feature_cache._sha256(values * torch.nan)},
    ),
    "narrower": lambda values, about: (
        values[:, :5],
        about | {"sha256": feature_cache._sha256(values[:, :5])},
    ),
    "fewer": lambda values, about: (
        values[:-1],
        about | {"sha256": feature_cache._sha256(values[:-1])},
    ),
    "fewer, and it says so": lambda values, about: (
        values[:-1],
        about | {"images": len(values) - 1, "sha256": feature_cache._sha256(values[:-1])},
    ),
    "wide": lambda values, about: (
        values.double(),
        about | {"sha256": feature_cache._sha256(values.double())},
    ),
    "of another key": lambda values, about: (values, about | {"key": "0" * 64}),
    "of another version": lambda values, about: (values, about | {"format": "seer-features/0"}),
    "with more to say": lambda values, about: (values, about | {"more": 1}),
    "a hash that is a number": lambda values, about: (values, about | {"sha256": 5}),
}


@pytest.mark.parametrize("kind", REPLACED)
def test_what_is_not_what_was_written_is_computed_anew(images, caplog, kind):
    model = small_model()
    features, path = cached(model, images)
    values, about = REPLACED[kind](features, claims(path))
    save_file(
        {"features": values.contiguous()}, path, {"seer": json.dumps(about)} if about else None
    )
    assert torch.equal(extract(model, images, FeatureConfig()), features)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "not used, but computed anew" in caplog.text
    caplog.clear()
    # Replaced, so nothing more is said.
    assert torch.equal(extract(model, images, FeatureConfig()), features)
    assert not caplog.records


def test_a_folder_or_pipe_in_the_files_place(images, caplog):
    model = small_model()
    features, path = cached(model, images)
    path.unlink()
    os.mkfifo(path)
    assert torch.equal(extract(model, images, FeatureConfig()), features)
    assert "features kept in the cache are not used" in caplog.text
    path.unlink()
    path.mkdir()
    assert torch.equal(extract(model, images, FeatureConfig()), features)
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize(
    "root", ["file/cache", "/proc/none", "x" * 300, "~nobody-of-this-name/cache"]
)
def test_where_nothing_can_be_kept_the_score_is_still_there(
    images, tmp_path, monkeypatch, caplog, root
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SEER_CACHE", root if root.startswith("~") else str(tmp_path / root))
    assert len(extract(small_model(), images, FeatureConfig())) == 60
    assert "set SEER_CACHE to a folder where you may write" in caplog.records[-1].getMessage()
    assert all("\n" not in record.getMessage() for record in caplog.records)


def test_a_full_disk_leaves_nothing_behind(images, monkeypatch, caplog):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", full)
    features, path = cached(small_model(), images)
    assert len(features) == 60
    assert "No space left on device" in caplog.text
    assert not list(path.parent.iterdir())


def test_many_writers_and_readers_at_once(images):
    """Writers of other values under one key: whoever reads gets one of them whole, or nothing."""
    key, wrong = "ab" * 32, []
    choices = [torch.full((400, 12), float(i)) for i in range(4)]

    def write(i: int) -> None:
        for _ in range(10):
            feature_cache.store(key, choices[i])
            kept = feature_cache.load(key, 400)
            # Nothing, where another writer replaced the file between the two times that safetensors
            # opens it.
            if kept is not None and not any(torch.equal(kept, choice) for choice in choices):
                wrong.append(i)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(feature_cache.path_of(key).parent.iterdir())) == 1
    assert feature_cache.load(key, 400) is not None


def test_features_from_the_cache_are_mapped_and_take_no_memory():
    key = "ab" * 32
    features = torch.ones(20_000, 512)  # 41 MB
    feature_cache.store(key, features)
    kept = feature_cache.load(key, len(features))
    where, own = mapping_of(kept.data_ptr())
    assert where == str(feature_cache.path_of(key))
    assert own == 0
    kept[0] = 5.0  # of this process alone
    assert mapping_of(kept.data_ptr())[1] > 0
    assert torch.equal(feature_cache.load(key, len(features)), features)


def mapping_of(address: int) -> tuple[str, int]:
    """The file that stands behind an address, and the KiB of that mapping that none does.

    Not the process's `RssAnon`, which the kernel counts for each CPU apart and another thread's
    allocations move.
    """
    behind = ""
    within = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if heading := re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)", line):
            start, end, behind = heading.groups()
            within = int(start, 16) <= address < int(end, 16)
        elif within and line.startswith("Anonymous:"):
            return behind, int(line.split()[1])
    raise AssertionError(f"nothing is mapped at {address:#x}")


def test_the_key_is_of_all_that_features_depend_on(monkeypatch):
    network = small_model().backbone
    keys = {feature_cache.key_of(network, "images", [1, 16])}
    keys |= {
        feature_cache.key_of(network, "others", [1, 16]),
        feature_cache.key_of(network, "images", [2, 16]),
    }
    keys.add(feature_cache.key_of(network.double(), "images", [1, 16]))
    monkeypatch.setattr(feature_cache.seer, "__version__", "9.9")
    keys.add(feature_cache.key_of(network, "images", [1, 16]))
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.add(feature_cache.key_of(network, "images", [1, 16]))
    assert len(keys) == 6
