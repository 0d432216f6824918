"""What limits the data path, and what is said about it."""

import json

import pytest

from seer.checks.feeding import REMEDIES, DataPath, decoded, lines, measure
from seer.cli import app
from seer.data.storage.index import Manifest
from seer.errors import InputError
from tests.kit.faults import spoil
from tests.kit.pictures import jpeg, photograph


def test_rates_and_cores_follow_from_the_times():
    path = DataPath(
        samples=8, damaged=0, megapixels=0.5, read=0.5, decode=2.0, crop=0.5, augment=1.0
    )
    assert path.rate(device_augment=False) == 250
    assert path.rate(device_augment=True) == pytest.approx(1000 / 3)
    said = lines(path, images_per_second=1000)
    assert "4 cores for one accelerator" in said[-3]
    assert "333 images/s and core" in said[-2]
    assert said[-1].endswith(REMEDIES["decode"])


def test_damaged_samples_are_counted(shards, tmp_path):
    found = measure(str(spoil(shards, tmp_path / "spoiled", {"shard-000000.tar": [0, 3]})))
    assert (found.samples, found.damaged) == (40, 2)
    assert min(found.read, found.decode, found.crop) > 0
    assert found.megapixels == pytest.approx(40 * 48 / 1e6)


def test_data_of_which_nothing_can_be_decoded(shards, tmp_path):
    manifest = Manifest.load(shards)
    everything = {
        name: list(range(size)) for name, size in zip(manifest.shards, manifest.sizes, strict=True)
    }
    spoiled = spoil(shards, tmp_path / "spoiled", everything)
    with pytest.raises(InputError, match="none of 40 samples can be decoded"):
        measure(str(spoiled))


def test_only_whole_images_are_decoded():
    whole = jpeg(photograph(1))
    assert len(list(decoded([whole, b"", whole[:200], whole]))) == 2


def test_the_command_line(shards, capsys):
    with pytest.raises(SystemExit) as ended:
        app(["doctor", "--data", str(shards), "--json", "-"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["limits"] in REMEDIES
