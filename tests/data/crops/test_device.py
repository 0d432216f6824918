"""Decoding and cropping on the device, here the CPU: as on CUDA but for the decoder behind
torchvision.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from seer.data import ledger
from seer.data.crops.device import cut, encode, size_of_plain
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import Manifest, index_path, read_index
from seer.errors import InputError
from shards.build import BuildOptions, build
from tests.kit.faults import spoil
from tests.kit.pictures import jpeg, photograph

VIEWS = {"large": View(size=24, count=2), "small": View(size=12, count=2, scale=[0.1, 0.3])}


def saved(image: Image.Image, format: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def test_crops_are_those_of_the_workers():
    images = [photograph(i, 90 + 7 * i, 120 - 5 * i) for i in range(6)]
    encoded = [jpeg(image, quality=95) for image in images]
    crops = MultiCrop(VIEWS, seed=3, finish=False)
    ids, epochs = np.arange(6), np.zeros(6, np.int64)
    pixels = [np.asarray(Image.open(io.BytesIO(data))) for data in encoded]
    expected = crops(pixels, epochs, ids)
    found = cut(encode(encoded, crops, epochs, ids), crops, "cpu")
    for ours, theirs in zip(found.crops, expected.crops, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.int() - theirs.int()).abs().max() <= 2
    assert all(
        np.array_equal(a.factors, b.factors)
        for a, b in zip(found.looks, expected.looks, strict=True)
    )


def test_what_is_not_a_plain_jpeg_goes_to_the_workers():
    image = Image.fromarray(photograph(1))
    whole = saved(image)
    assert size_of_plain(whole) == (40, 48)
    assert size_of_plain(saved(image, progressive=True)) == (40, 48)
    assert size_of_plain(saved(image.convert("L"))) == (40, 48)
    turned = Image.Exif()
    turned[0x0112] = 6
    others = {
        "png": saved(image, "PNG"),
        "cmyk": saved(image.convert("CMYK")),
        "rgb": saved(image, keep_rgb=True),
        "turned": saved(image, exif=turned),
        "truncated": whole[:-100],
        "empty": b"",
        "junk": b"\xff\xd8\xff" + bytes(100),
    }
    assert {name: size_of_plain(data) for name, data in others.items()} == dict.fromkeys(others)


def stream(data, run_dir, **config) -> list[torch.Tensor]:
    manifest = Manifest.load(data)
    crops = MultiCrop(VIEWS, seed=0, finish=False)
    config = LoaderConfig(device_augment=True, **config)
    loader = Loader(
        manifest,
        Order(manifest.sizes, 0, 8, 16),
        crops,
        batch_size=8,
        config=config,
        run_dir=run_dir,
    )
    return [torch.cat([crop.flatten() for crop in views.crops]) for views in loader.iterate(0, 5)]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Forty photographs in three shards."""
    root = tmp_path_factory.mktemp("device")
    (root / "images").mkdir()
    for i in range(40):
        (root / "images" / f"{i:02}.jpg").write_bytes(jpeg(photograph(i, 50, 60)))
    build([root / "images"], root / "shards", BuildOptions(workers=1, shard_size=15))
    return root / "shards"


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_is_replaced_and_entered_as_by_workers(built, tmp_path, workers):
    """Both kinds: what a worker recognises, and what only the decoder on the device does."""
    spoiled = spoil(built, tmp_path / "spoiled", {"shard-000000.tar": [1]})
    late = Manifest.load(spoiled)
    row = read_index(index_path(spoiled / "shard-000001.tar")).to_pylist()[2]
    with open(spoiled / "shard-000001.tar", "r+b") as file:  # the header stays, the tables go
        file.seek(row["offset"] + 20)
        file.write(bytes(row["size"] - 40))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    expected = stream(spoiled, tmp_path / "a", workers=0)
    found = stream(spoiled, tmp_path / "b", workers=workers, device_decode=True)
    assert ledger.read(tmp_path / "a", 40) == ledger.read(tmp_path / "b", 40)
    assert {entry.id for entry in ledger.read(tmp_path / "b", 40)} == {1, int(late.sizes[0]) + 2}
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().mean() < 0.02  # of one standard deviation: about a level


def test_it_needs_augmentation_on_the_device(built):
    manifest = Manifest.load(built)
    with pytest.raises(InputError, match="device_augment"):
        Loader(
            manifest, Order(manifest.sizes, 0, 8, 16), MultiCrop(VIEWS, 0), batch_size=8,
            config=LoaderConfig(device_decode=True),
        )  # fmt: skip
