"""Cutting, resizing, grouping: against Pillow and torchvision, and the same crops whatever the
batch or executor.
"""

import pickle

import numpy as np
import pytest
import simplejpeg
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision.transforms import CenterCrop, Compose, Resize

from seer.data.crops.draws import crop_uniforms, draw_appearance, draw_boxes
from seer.data.crops.multicrop import (
    BOX_UNIFORMS,
    DEFAULT_VIEWS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MultiCrop,
    View,
    centre_crop,
    resized_crop,
    train_crop,
)
from seer.data.decoding.decode import decode
from seer.data.hashing import uniform
from seer.errors import InputError

CHINA = load_sample_image("china.jpg")  # (427, 640, 3)
PLAIN = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
SMALL = {"large": View(size=32), "small": View(size=16, count=4, scale=[0.05, 0.14])}


def photographs(count: int) -> list[np.ndarray]:
    """Differently sized parts of a photograph."""
    rng = np.random.default_rng(0)
    shapes = rng.integers(40, 300, (count, 2))
    return [CHINA[i : i + h, 2 * i : 2 * i + w] for i, (h, w) in enumerate(shapes)]


def cut(multicrop: MultiCrop, images, ids, epoch: int = 0):
    batch = multicrop(images, np.full(len(images), epoch), np.array(ids))
    return multicrop.finish(batch, "cpu")


def exactly_resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bilinear of floats, which it does not round."""
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(image, 2, 0)]
    return np.stack(
        [np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes], 2
    )


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((400, 420), (224, 224)),
        ((427, 640), (96, 96)),
        ((96, 96), (96, 96)),
        ((150, 160), (224, 224)),
        ((300, 100), (224, 224)),  # shrinks down, grows across
        ((31, 29), (32, 16)),
        ((7, 5), (16, 16)),
        ((1, 1), (8, 8)),
        ((1, 300), (8, 8)),
    ],
)
def test_resizing_is_pillows_bilinear_to_one_level(shape, size):
    image = CHINA[: shape[0], : shape[1]]
    out = np.empty((*size, 3), np.uint8)
    resized_crop(image, (0, 0, *shape), False, out)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR), int)
    assert np.abs(out - expected).max() <= 1
    # Two roundings; a quarter is what one takes.
    assert np.abs(out - exactly_resized(image, size)).mean() < 0.4


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_box_of_anything_is_resized_to_within_a_level(data):
    height, width, *size = (data.draw(st.integers(1, most)) for most in (300, 300, 70, 70))
    top, left = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9))
    noise = np.random.default_rng(height).integers(
        0, 256, (top + height + 3, left + width, 3), np.uint8
    )
    flip, out = data.draw(st.booleans()), np.empty((*size, 3), np.uint8)
    resized_crop(noise, (top, left, height, width), flip, out)
    expected = exactly_resized(noise[top : top + height, left : left + width], size)
    assert np.abs(out - (expected[:, ::-1] if flip else expected)).max() <= 1.001


@pytest.mark.parametrize("box", [(-1, 0, 9, 9), (0, 0, 428, 9), (0, 632, 9, 9), (5, 5, 0, 9)])
def test_a_box_outside_the_image_is_refused(box):
    with pytest.raises(ValueError, match="leaves the image of 427x640 pixels"):
        resized_crop(CHINA, box, False, np.empty((8, 8, 3), np.uint8))


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_torchvisions_resized_crop(flip):
    out = np.empty((96, 96, 3), np.uint8)
    resized_crop(CHINA, [100, 50, 210, 190], flip, out)
    expected = TF.resized_crop(Image.fromarray(CHINA), 100, 50, 210, 190, [96, 96])
    expected = TF.hflip(expected) if flip else expected
    assert np.abs(out.astype(int) - np.asarray(expected, int)).max() <= 1


@pytest.mark.parametrize("finish", [True, False])
def test_views_are_grouped_by_size_largest_first_and_channels_last(finish):
    views = {
        "small": View(size=16, count=3),
        "one": View(size=32, count=1),
        "off": View(count=0),
        "two": View(size=32),
    }
    crops = cut(MultiCrop(views, 0, finish), photographs(5), range(10, 15))
    assert [tuple(c.shape) for c in crops.crops] == [(3, 5, 3, 32, 32), (3, 5, 3, 16, 16)]
    assert crops.index.tolist() == [10, 11, 12, 13, 14]
    for c in crops.crops:
        flat = c.flatten(0, 1)
        assert flat.dtype == torch.float32
        assert flat.data_ptr() == c.data_ptr()
        assert flat.is_contiguous(memory_format=torch.channels_last)


def test_views_of_one_size_keep_their_own_descriptions_in_order():
    views = {
        "first": View(size=24, count=1, **PLAIN),
        "second": View(size=24, count=1, **PLAIN | {"solarize": 1.0}),
    }
    images = [np.full((40, 40, 3), 200, np.uint8)]
    (crops,) = cut(MultiCrop(views, 0, True, mean=(0, 0, 0), std=(1 / 255,) * 3), images, [0]).crops
    torch.testing.assert_close(crops[0], torch.full_like(crops[0], 200))
    torch.testing.assert_close(crops[1], torch.full_like(crops[1], 55))


@pytest.mark.parametrize("finish", [True, False])
def test_a_samples_crops_do_not_depend_on_its_batch(finish):
    multicrop, images = MultiCrop(SMALL, 1, finish), photographs(8)
    together = cut(multicrop, images, range(8))
    reversed_ = cut(multicrop, images[::-1], range(7, -1, -1))
    alone = cut(multicrop, images[3:4], [3])
    for whole, back, one in zip(together.crops, reversed_.crops, alone.crops, strict=True):
        torch.testing.assert_close(back.flip(1), whole, atol=1e-4, rtol=0)
        torch.testing.assert_close(one[:, 0], whole[:, 3], atol=1e-4, rtol=0)


def test_another_epoch_seed_or_sample_gives_other_crops():
    images = photographs(1) * 2
    first = cut(MultiCrop(SMALL, 1), images, [0, 1]).crops[0]
    assert not torch.allclose(first[:, 0], first[:, 1])
    assert not torch.allclose(first, cut(MultiCrop(SMALL, 1), images, [0, 1], epoch=1).crops[0])
    assert not torch.allclose(first, cut(MultiCrop(SMALL, 2), images, [0, 1]).crops[0])
    assert not torch.allclose(first[0], first[1])


def test_a_batch_may_span_two_epochs():
    multicrop, images = MultiCrop(SMALL, 1), photographs(2)
    both = multicrop.finish(multicrop(images, np.array([4, 5]), np.array([7, 3])), "cpu")
    for b, (epoch, sample) in enumerate([(4, 7), (5, 3)]):
        alone = cut(multicrop, images[b : b + 1], [sample], epoch)
        torch.testing.assert_close(both.crops[1][:, b], alone.crops[1][:, 0])


@pytest.mark.parametrize("views", [DEFAULT_VIEWS, SMALL], ids=["default", "small"])
def test_worker_and_device_agree(views):
    images = [CHINA, CHINA[::2, ::2], *photographs(6)]
    finished = cut(MultiCrop(views, 3, finish=True), images, range(8))
    on_device = cut(MultiCrop(views, 3, finish=False), images, range(8))
    for a, b in zip(finished.crops, on_device.crops, strict=True):
        assert (a - b).abs().max() < 0.01 / 255 / 0.225


def test_one_crop_from_its_draws_to_its_values():
    """A whole crop, redone with torchvision from what the sample drew."""
    view = View(size=64, count=1, jitter=0.0)
    multicrop = MultiCrop({"only": view}, seed=5)
    for sample in range(8):
        ours = cut(multicrop, [CHINA], [sample], epoch=2).crops[0][0, 0]
        u = crop_uniforms(5, np.array([2]), np.array([sample]), 0)
        boxes, looks = (
            draw_boxes(view, np.array([427]), np.array([640]), u),
            draw_appearance(view, u),
        )
        top, left, height, width = boxes.box[0].tolist()
        image = TF.resized_crop(Image.fromarray(CHINA), top, left, height, width, [64, 64])
        image = TF.hflip(image) if boxes.flip[0] else image
        image = TF.to_grayscale(image, 3) if looks.grey[0] else image
        image = (
            TF.gaussian_blur(image, [15, 15], [float(looks.sigma[0])] * 2)
            if looks.sigma[0]
            else image
        )
        expected = TF.normalize(TF.to_tensor(image), IMAGENET_MEAN, IMAGENET_STD)
        assert (ours - expected).abs().max() < 2.5 / 255 / 0.224


def enlarged(factor: int) -> tuple[np.ndarray, bytes]:
    """A large photograph as its JPEG decodes to, and the JPEG."""
    size = (CHINA.shape[1] * factor, CHINA.shape[0] * factor)
    data = simplejpeg.encode_jpeg(np.asarray(Image.fromarray(CHINA).resize(size)), quality=92)
    return decode(data), data


def test_large_images_are_reduced_as_far_as_every_crop_still_shrinks():
    multicrop, shapes = (
        MultiCrop(SMALL, 0, finish=False),
        [(427, 640), (180, 200), (1, 1), (8000, 9000)] * 50,
    )
    plan = multicrop.plan(shapes, np.zeros(200, int), np.arange(200))
    for b, shape in enumerate(shapes):
        ratio = np.inf
        for view, numbers in ((SMALL["large"], (0, 1)), (SMALL["small"], (2, 3, 4, 5))):
            for number in numbers:
                u = crop_uniforms(0, np.zeros(1, int), np.array([b]), number)
                box = draw_boxes(view, *np.array(shape)[:, None], u).box[0]
                ratio = min(ratio, box[2:].min() / view.size)
        assert plan.reductions[b] == max(f for f in (1, 2, 4, 8) if f <= max(ratio, 1))
    assert set(plan.reductions) == {1, 2, 4, 8}


@pytest.mark.parametrize("finish", [True, False])
def test_crops_of_a_reduced_image_are_those_of_the_whole(finish):
    """To 3 levels on average: the cosine transform cuts frequencies off sharper than a triangle,
    and edges move.
    """
    views = {
        "large": View(size=64, scale=[0.2, 1]),
        "small": View(size=32, count=4, scale=[0.1, 0.3]),
    }
    multicrop, (image, data) = (
        MultiCrop(views, 3, finish, mean=(0, 0, 0), std=(1 / 255,) * 3),
        enlarged(2),
    )
    epochs, ids = np.zeros(12, int), np.arange(12)
    plan = multicrop.plan([image.shape[:2]] * 12, epochs, ids)
    assert set(plan.reductions) == {4, 8}
    for b, reduction in enumerate(plan.reductions):
        plan.cut(b, decode(data, reduction=reduction))
    ours = multicrop.finish(plan.batch(), "cpu")
    whole = multicrop.finish(multicrop([image] * 12, epochs, ids), "cpu")
    for a, b in zip(ours.crops, whole.crops, strict=True):
        error = (a - b).abs().mean((2, 3, 4))
        assert error.mean() < 3
        assert error.max() < 9


def test_an_image_that_replaces_another_is_cut_by_its_own_boxes():
    multicrop, images = MultiCrop(SMALL, 1), photographs(5)
    plan = multicrop.plan(
        [(900, 800), (1, 1), (30, 20), (2000, 2000), images[4].shape[:2]],
        np.zeros(5, int),
        np.arange(5),
    )
    for b, image in enumerate(images):
        plan.cut(b, image)
    for a, b in zip(
        plan.batch().crops, multicrop(images, np.zeros(5, int), np.arange(5)).crops, strict=True
    ):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_a_batch_survives_pickling():
    multicrop = MultiCrop(SMALL, 0, finish=False)
    batch = multicrop(photographs(4), np.zeros(4, int), np.arange(4))
    again = multicrop.finish(pickle.loads(pickle.dumps(batch)), "cpu")
    for a, b in zip(again.crops, multicrop.finish(batch, "cpu").crops, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    assert batch.crops[0].dtype == torch.uint8


def test_a_multicrop_survives_pickling():
    multicrop = MultiCrop(SMALL, 0)
    again = pickle.loads(pickle.dumps(multicrop))
    torch.testing.assert_close(
        cut(again, photographs(2), [0, 1]).crops[0], cut(multicrop, photographs(2), [0, 1]).crops[0]
    )


def test_images_may_be_read_only_strided_or_tiny():
    read_only = CHINA[:60, :50].copy()
    read_only.flags.writeable = False
    images = [
        read_only,
        np.rot90(CHINA[:50, :60]),
        CHINA[::3, ::-2],
        CHINA[:1, :1],
        CHINA[:1, :400],
        CHINA[:400, :1],
    ]
    before = [image.copy() for image in images]
    crops = cut(MultiCrop(SMALL, 0), images, range(6))
    dense = cut(MultiCrop(SMALL, 0), [image.copy() for image in images], range(6))
    for a, b in zip(crops.crops, dense.crops, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a, b, atol=0, rtol=0)
    for image, old in zip(images, before, strict=True):
        np.testing.assert_array_equal(image, old)


def test_views_are_checked_when_they_are_built():
    with pytest.raises(InputError, match=r"views\.large\.scale"):
        MultiCrop({"large": View(scale=[0.0, 1.0])}, 0)
    with pytest.raises(InputError, match="std above 0"):
        MultiCrop(SMALL, 0, std=(1.0, 0.0, 1.0))


@pytest.mark.parametrize("shape", [(427, 640), (400, 200), (37, 41), (224, 224), (30, 450)])
@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 32), (56, 64)])
def test_centre_crop_is_torchvisions(shape, size, resize):
    image = CHINA[: shape[0], : shape[1]]
    expected = Compose([Resize(resize), CenterCrop(size)])(Image.fromarray(image))
    ours = centre_crop(image, size=size, resize=resize)
    assert ours.shape == (size, size, 3)
    assert np.abs(ours.astype(int) - np.asarray(expected, int)).max() <= 1


def test_centre_crop_of_a_thread_of_an_image_takes_little_memory():
    thread = np.repeat(np.arange(200_000)[None, :, None] // 1000, 3, axis=2).astype(np.uint8)
    assert np.abs(centre_crop(thread, 32, 32).astype(int) - 100).max() <= 1


def test_centre_crop_larger_than_the_resized_image_is_refused():
    with pytest.raises(InputError, match="crop size 256: should be from 1 to 224"):
        centre_crop(CHINA, 256, 224)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**9))
def test_train_crop_cuts_the_box_that_its_numbers_draw(sample):
    u = uniform(0, 0, sample, np.arange(BOX_UNIFORMS))
    boxes = draw_boxes(View(scale=[0.08, 1.0]), np.array([427]), np.array([640]), u[None])
    expected = np.empty((48, 48, 3), np.uint8)
    resized_crop(CHINA, boxes.box[0].tolist(), bool(boxes.flip[0]), expected)
    np.testing.assert_array_equal(train_crop(CHINA, 48, u), expected)


def test_memory_is_used_again_but_not_while_somebody_holds_it():
    multicrop, images, epochs = MultiCrop(SMALL, 0), photographs(3), np.zeros(3, int)
    first = multicrop(images, epochs, np.arange(3))
    kept, address = first.crops[0][1, 2], first.crops[0].data_ptr()
    before = kept.clone()
    del first
    for _ in range(3):
        other = multicrop(images, epochs, np.arange(3, 6))
        assert other.crops[0].data_ptr() != address
    torch.testing.assert_close(kept, before, atol=0, rtol=0)
    del kept, other
    reused = [multicrop(images, epochs, np.arange(3)) for _ in range(2)]
    assert address in [batch.crops[0].data_ptr() for batch in reused]
    assert reused[0].crops[0].data_ptr() != reused[1].crops[0].data_ptr()
    torch.testing.assert_close(reused[0].crops[0][1, 2], before, atol=0, rtol=0)
