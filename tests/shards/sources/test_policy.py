import io

import pytest
from PIL import Image

from seer.data.decoding.decode import DamagedImage
from seer.data.storage.index import index_path, read_index
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.options import DedupOptions
from shards.sources import samples
from shards.sources.policy import LOOK, Policy
from shards.sources.samples import fit
from tests.kit.pictures import bomb, encoded


@pytest.mark.parametrize(
    ("policy", "size", "made"),
    [
        (Policy(), (40, 60), (40, 60)),
        (Policy(max_side=30), (40, 60), (20, 30)),
        (Policy(shorter_side=30), (40, 60), (30, 45)),
        (Policy(shorter_side=40), (40, 60), (40, 60)),
        (Policy(shorter_side=30, max_side=30), (40, 60), (20, 30)),
        (Policy(shorter_side=10, max_side=30), (40, 60), (10, 15)),
    ],
)
def test_sides(policy, size, made):
    data = encoded(1, size=size)
    kept, info = fit(data, policy)[:2]
    assert (info.height, info.width) == made
    assert Image.open(io.BytesIO(kept)).size == made[::-1]
    assert (kept == data) == (made == size)


@pytest.mark.parametrize(
    ("policy", "size", "reason"),
    [
        (Policy(min_side=41), (40, 60), "too small (60x40)"),
        (Policy(min_side=40), (40, 60), None),
        (Policy(max_aspect=1.49), (40, 60), "too elongated (60x40)"),
        (Policy(max_aspect=1.5), (60, 40), None),
        (Policy(max_pixels=2399), (40, 60), "too many pixels (60x40)"),
        (Policy(max_pixels=2400), (40, 60), None),
        (Policy(min_side=41, shorter_side=50), (40, 60), "too small (60x40)"),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_what_is_left_out(policy, size, reason, format):
    data = encoded(1, format, size=size)
    if reason is None:
        assert fit(data, policy)[0] == data
        return
    with pytest.raises(DamagedImage) as raised:
        fit(data, policy)
    assert raised.value.reason == reason


@pytest.mark.parametrize("policy", [Policy(), Policy(max_pixels=1 << 40)])
def test_a_bomb_is_not_unfolded(policy, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("its pixels were asked for"))
    with pytest.raises(DamagedImage, match="too many pixels"):
        fit(bomb(), policy)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_headers_alone_tell_what_is_left_out_and_what_is_made_smaller(format):
    data = encoded(1, format, size=(40, 60))
    cut = data[:-100]
    assert fit(cut, LOOK) == (cut, (60, 40, format), None)
    with pytest.raises(DamagedImage, match=r"too small \(60x40\)"):
        fit(cut, Policy(min_side=41, check=False))
    with pytest.raises(DamagedImage, match=r"too many pixels \(60x40\)"):
        fit(cut, Policy(max_pixels=2399, check=False))
    assert fit(data, Policy(max_side=30, check=False)) == fit(data, Policy(max_side=30))
    assert fit(data, Policy(reencode=50, check=False)) == fit(data, Policy(reencode=50))
    with pytest.raises(DamagedImage):
        fit(cut, Policy(max_side=30, check=False))


def test_an_unchecked_build_has_the_same_tars_and_no_perceptual_hashes(folder, tmp_path):
    root = folder(
        {f"{number}.jpg": encoded(number) for number in range(6)} | {"x.jpg": b"no image"}
    )
    for out, check in (("quick", False), ("full", True)):
        report = build([root], tmp_path / out, BuildOptions(workers=1, check=check))
        assert (report.samples, report.quarantined) == (6, {"not an image": 1})
    quick, full = (tmp_path / out / "shard-000000.tar" for out in ("quick", "full"))
    assert quick.read_bytes() == full.read_bytes()
    assert read_index(index_path(quick))["phash"].null_count == 6
    assert read_index(index_path(quick)).drop("phash") == read_index(index_path(full)).drop("phash")
    with pytest.raises(InputError, match="another build: no_check was"):
        build([root], tmp_path / "full", BuildOptions(workers=1, check=False))
    with pytest.raises(InputError, match="--no-check: near duplicates"):
        build([root], tmp_path / "near", BuildOptions(check=False, unwanted=DedupOptions("near")))


def test_limits_are_counted_as_quarantine(folder, tmp_path):
    root = folder({f"{side}.jpg": encoded(side, size=(side, 40)) for side in (8, 20, 40, 100)})
    options = BuildOptions(workers=1, min_side=10, max_aspect=2.4, shorter_side=30)
    report = build([root], tmp_path / "out", options)
    assert report.quarantined == {"too elongated": 1, "too small": 1}
    assert report.samples == 2


def test_policies_are_part_of_the_identity():
    assert BuildOptions(min_side=3).identity() != BuildOptions().identity()
    assert Policy.of(BuildOptions(min_side=3, max_side=7)) == Policy(min_side=3, max_side=7)
    assert Policy.of(BuildOptions()) == samples.KEEP
