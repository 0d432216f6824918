"""Backgrounds that are removed: against Pillow's arithmetic, and alike in both executors."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest, chisquare

from seer.data.crops.backdrops import (
    LEAST_SHOWN,
    MASK,
    Backdrop,
    lay_behind,
    static,
    together,
)
from seer.data.crops.device import cut, encode
from seer.data.crops.draws import NO_NOISE, draw_removals
from seer.data.crops.multicrop import CropPlan, MultiCrop, View
from seer.data.decoding.decode import decode
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.errors import InputError
from shards.indexing import index
from tests.kit.pictures import jpeg, photograph

PLAIN = {"jitter": 0.0, "grey": 0.0, "blur": 0.0}
MEAN = (0.5, 0.4, 0.3)
FILLS = {"grey": (128, 102, 76), "black": (0, 0, 0)}
COUNT = 12


def views(fill: str = "black", removal: float = 0.5, **more) -> dict[str, View]:
    options = {"background_removal": removal, "background_fill": fill, **PLAIN, **more}
    return {
        "large": View(size=24, count=2, scale=[0.3, 0.9], **options),
        "small": View(size=12, count=2, scale=[0.2, 0.4], **PLAIN),
        "other": View(size=12, count=1, scale=[0.2, 0.4], **options),
    }


def photo(i: int) -> np.ndarray:
    return photograph(i, 60 + i, 90 - 2 * i)


def object_of(image: np.ndarray) -> np.ndarray:
    """`(H, W)` bool: an ellipse off the centre, and a bar."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    ellipse = ((y - 0.4 * height) / height) ** 2 + ((x - 0.6 * width) / width) ** 2 < 0.09
    return ellipse | (np.abs(x - 0.2 * width) < 5)


def mask_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(object_of(image)).save(file, "PNG")
    return file.getvalue()


def whole(levels: np.ndarray, box: list[int], flip: bool, size: int) -> np.ndarray:
    """What Pillow cuts, not rounded."""
    top, left, height, width = box
    part = Image.fromarray(levels.astype(np.float32)).crop((left, top, left + width, top + height))
    resized = np.asarray(part.resize((size, size), Image.Resampling.BILINEAR))
    return resized[:, ::-1] if flip else resized


def numbers() -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(COUNT, np.int64), np.arange(COUNT)


@pytest.mark.parametrize("fill", FILLS)
def test_what_is_not_object_is_filled_as_pillow_would(fill):
    crops = MultiCrop(views(fill), seed=3, finish=False, mean=MEAN)
    epochs, ids = numbers()
    images = [photo(i) for i in range(COUNT)]
    made = crops(images, epochs, ids, [(mask_png(image),) for image in images])
    plan = CropPlan(crops, [image.shape[:2] for image in images], epochs, ids)
    removed = 0
    for work, group in zip(plan.work, made.crops, strict=True):
        for row, crop in enumerate(group.flatten(0, 1).numpy()):
            image = images[row % COUNT]
            where = (work.boxes[row], work.flips[row], len(crop))
            levels = np.stack([whole(image[..., c], *where) for c in range(3)], 2)
            share = whole(object_of(image) * 1.0, *where)[..., None]
            if work.removals.removed[row] and share.mean() > 1.2 * LEAST_SHOWN:
                removed += 1
                levels = share * levels + (1 - share) * np.array(FILLS[fill])
                assert (crop[share[..., 0] == 0] == FILLS[fill]).all()
            assert np.abs(crop - levels).max() < 2.1
    assert removed > COUNT


def test_levels_are_rounded_to_the_nearest():
    """At every weight from 0 to 255."""
    crops = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8)
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.array([10, 200, 77], np.uint8)
    made = torch.from_numpy(crops.copy())
    lay_behind(made, together([1], [Backdrop(mask, colour, NO_NOISE)], 16))
    share = mask[..., None] / 255
    np.testing.assert_array_equal(made[0], crops[0])
    np.testing.assert_array_equal(made[1], np.rint(share * crops[1] + (1 - share) * colour))


@pytest.mark.parametrize("fill", ["grey", "black", "colour", "noise"])
@pytest.mark.parametrize("finish", [True, False])
def test_executors_agree(fill, finish):
    """Where the object is not, to the bit; the rest is the decoder's, to two levels."""
    images = [jpeg(photo(i), quality=95) for i in range(COUNT)]
    masks = [(mask_png(photo(i)),) for i in range(COUNT)]
    crops = MultiCrop(views(fill), seed=3, finish=False, mean=MEAN)
    epochs, ids = numbers()
    by_worker = crops([decode(image) for image in images], epochs, ids, masks)
    by_device = cut(encode(images, crops, epochs, ids, masks), crops, "cpu")
    nothing = MultiCrop(views(fill, removal=0.0), seed=3, finish=False, mean=MEAN)
    untouched = nothing([decode(image) for image in images], epochs, ids)
    for ours, theirs, before in zip(by_device.crops, by_worker.crops, untouched.crops, strict=True):
        assert (ours.int() - theirs.int()).abs().max() <= 2
        changed = (theirs.int() - before.int()).abs().amax((2, 3, 4))
        assert (changed > 20).float().mean() > 0.1
    if finish:
        finished = MultiCrop(views(fill), seed=3, finish=True, mean=MEAN)
        done = finished([decode(image) for image in images], epochs, ids, masks)
        for ours, theirs in zip(
            finished.finish(done, "cpu").crops, crops.finish(by_worker, "cpu").crops, strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)


def test_other_draws_are_as_without():
    epochs, ids = numbers()
    shapes = [photo(i).shape[:2] for i in range(COUNT)]
    plans = [
        MultiCrop(views(removal=removal, solarize=0.3), seed=3).plan(shapes, epochs, ids)
        for removal in (0.0, 0.7)
    ]
    for without, with_removal in zip(plans[0].work, plans[1].work, strict=True):
        assert without.boxes == with_removal.boxes
        assert without.flips == with_removal.flips
        for ours, theirs in zip(without.looks, with_removal.looks, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_how_often_and_by_what():
    ids = np.arange(20_000)
    view = View(background_removal=0.3, background_fill="colour")
    drawn = draw_removals(view, MEAN, 0, np.zeros_like(ids), ids, 1)
    assert binomtest(int(drawn.removed.sum()), len(ids), 0.3).pvalue > 1e-3
    for channel in drawn.colour.T:
        assert chisquare(np.bincount(channel // 16, minlength=16)).pvalue > 1e-3
    again = draw_removals(view, MEAN, 0, np.zeros(3, int), ids[[7, 3, 900]], 1)
    assert np.array_equal(again.removed, drawn.removed[[7, 3, 900]])
    other = draw_removals(view, MEAN, 0, np.zeros_like(ids), ids, 2)
    assert np.corrcoef(other.removed, drawn.removed)[0, 1] == pytest.approx(0, abs=0.03)


def test_noise_is_even_and_nowhere_the_same():
    levels = static(torch.tensor([5, 6, 2**32 - 1]), 64)
    for each in levels:
        assert chisquare(each.flatten().bincount(minlength=256).numpy()).pvalue > 1e-3
        rows = each.double().flatten(1)
        assert torch.corrcoef(rows)[0, 1:].abs().max() < 0.3
    flat = levels.double().flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(3)).abs().max() < 0.03


def test_a_crop_without_its_object_keeps_its_background():
    view = {"only": View(size=16, count=4, background_removal=1.0, **PLAIN)}
    crops = MultiCrop(view, seed=0, finish=False)
    image, none = photo(1), io.BytesIO()
    Image.fromarray(np.zeros(image.shape[:2], bool)).save(none, "PNG")
    one = np.zeros(1, np.int64)
    found = crops([image], one, one, [(none.getvalue(),)]).crops[0]
    plain = MultiCrop({"only": View(size=16, count=4, **PLAIN)}, seed=0, finish=False)
    assert torch.equal(found, plain([image], one, one).crops[0])


def test_a_reduced_image_is_masked_as_the_whole_one():
    image = np.asarray(Image.fromarray(photo(2)).resize((800, 640)))
    data = jpeg(image, 95)
    view = {"only": View(size=32, count=8, scale=[0.4, 0.9], background_removal=1.0, **PLAIN)}
    crops = MultiCrop(view, seed=0, finish=False)
    one, masks = np.zeros(1, np.int64), (mask_png(image),)
    plan = crops.plan([image.shape[:2]], one, one)
    assert plan.reductions[0] > 1
    plan.cut(0, decode(data, reduction=plan.reductions[0]), masks)
    expected = crops([decode(data)], one, one, [masks]).crops[0]
    assert (plan.batch().crops[0].int() - expected.int()).abs().float().mean() < 2


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ((), r"sample 7 has no mask.png, .*: seer shards saliency SHARDS --out NEW"),
        ((None,), r"sample 7 has no mask.png"),
        ((b"no mask",), r"sample 7: its mask.png is not an image; make masks anew: seer shards"),
        (
            (mask_png(photograph(0, 20, 30)),),
            r"its mask.png has 30x20 pixels and its image 88x61; make masks anew",
        ),
    ],
)
def test_a_mask_that_is_not_its_images(extras, message):
    crops = MultiCrop(views(removal=1.0), seed=0, finish=False)
    one, id = np.zeros(1, np.int64), np.array([7])
    with pytest.raises(InputError, match=message):
        crops([photo(1)], one, id, [extras] if extras else ())
    with pytest.raises(InputError, match=message):
        encode([jpeg(photo(1))], crops, one, id, [extras] if extras else ())


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    """Shards of photographs with masks, one of which is damaged."""
    root = tmp_path_factory.mktemp("masked")
    (root / "tar").mkdir()
    with tarfile.open(root / "tar" / "a.tar", "w") as tar:
        for i in range(20):
            image = jpeg(photo(i % COUNT))
            members = {
                "jpg": image[:-200] if i == 4 else image,
                "mask.png": mask_png(photo(i % COUNT)),
            }
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{i:03}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    index([root / "tar"], workers=1, check=False)
    return root / "tar"


def delivered(folder, workers: int, **options) -> list[torch.Tensor]:
    manifest = Manifest.load(folder)
    crops = MultiCrop(views("noise", 0.8), seed=5, finish=False, mean=MEAN)
    assert crops.suffixes == (MASK,)
    config = LoaderConfig(workers=workers, device_augment=True, **options)
    order = Order(manifest.sizes, 0, 5, 4)
    loader = Loader(manifest, order, crops, batch_size=5, config=config)
    batches = [torch.cat([crop.flatten() for crop in made.crops]) for made in loader.iterate(0, 4)]
    assert loader.replaced
    return batches


def test_masks_come_with_their_images_whoever_decodes(masked):
    expected = delivered(masked, 0)
    for found in (delivered(masked, 1), delivered(masked, 0, device_decode=True)):
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).abs().mean() < 0.05
    sent = delivered(masked, 1, device_decode=True)
    assert all((a - b).abs().mean() < 0.05 for a, b in zip(sent, expected, strict=True))
