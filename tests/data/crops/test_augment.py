"""Every operation of both executors against torchvision's on the same pixels, and the executors
against each other.

Tolerances are in levels of 255. The arithmetic of both is torchvision's on float tensors, here in
float64, to 0.05 (torchvision's weights of grey have four digits there); torchvision on 8-bit Pillow
images differs by its rounding.
"""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import correlate1d, gaussian_filter
from sklearn.datasets import load_sample_image

from seer.data.crops import augment
from seer.data.crops.augment import (
    Normalise,
    augment_batch,
    augment_crop,
    blend_batch,
    blur_batch,
    blur_matrices,
    rotate_hues,
)
from seer.data.crops.draws import (
    ORDERS,
    Appearance,
    Op,
    concatenate,
    crop_uniforms,
    draw_appearance,
)
from seer.data.crops.options import View
from seer.errors import InputError

LEVELS = Normalise((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # leaves levels as they are
FACTORS = [0.0, 0.2, 0.73, 1.3, 1.8]
TURNS = [-0.5, -0.2, -0.013, 0.1, 0.2, 0.5]
ADJUST = {
    Op.BRIGHTNESS: TF.adjust_brightness,
    Op.CONTRAST: TF.adjust_contrast,
    Op.SATURATION: TF.adjust_saturation,
}


def photograph(size: int) -> np.ndarray:
    china = load_sample_image("china.jpg")
    return np.asarray(Image.fromarray(china).resize((size, size), Image.Resampling.BILINEAR)).copy()


IMAGES = {
    "photograph": photograph(96),
    "noise": np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8),
    "greys": np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2),
    "white": np.full((8, 8, 3), 255, np.uint8),
}


@pytest.fixture(params=IMAGES)
def image(request) -> np.ndarray:
    return IMAGES[request.param]


def planes_of(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).flatten(1)[None].float()


def image_of(planes: torch.Tensor, like: np.ndarray) -> np.ndarray:
    return planes[0].unflatten(1, like.shape[:2]).permute(1, 2, 0).numpy()


def exact(function, image: np.ndarray, *args) -> np.ndarray:
    """A torchvision operation in float64, in levels."""
    unit = torch.from_numpy(image).permute(2, 0, 1).double() / 255
    return function(unit, *args).permute(1, 2, 0).numpy() * 255


def worst(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())


def appearance(count: int = 1, **changes) -> Appearance:
    """The identity but for `changes`."""
    order = np.tile(np.arange(4), (count, 1))
    factors = np.tile(np.float32([1, 1, 1, 0]), (count, 1))
    off = np.zeros(count, bool)
    return Appearance(
        **{
            "factors": factors,
            "order": order,
            "grey": off,
            "sigma": off * np.float32(0),
            "solarize": off,
        }
        | changes
    )


def crops_of(images: np.ndarray, looks: Appearance) -> np.ndarray:
    """`(N, S, S, 3)` in levels, by the crop executor."""
    out = np.empty(images.shape, np.float32)
    for image, look, crop in zip(images, looks.rows(), out, strict=True):
        augment_crop(image, look, LEVELS, crop)
    return out


def both(images: np.ndarray, looks: Appearance) -> tuple[np.ndarray, np.ndarray]:
    """`(N, S, S, 3)` in levels, by the crop and by the batch executor."""
    return crops_of(images, looks), augment_batch(torch.from_numpy(images), looks, LEVELS).numpy()


def with_factor(op: Op, factor: float) -> Appearance:
    factors = np.float32([[1, 1, 1, 0]])
    factors[0, op] = factor
    return appearance(factors=factors)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("op", ADJUST)
def test_blends_match_torchvision(image, op, factor):
    crop = crops_of(image[None], with_factor(op, factor))[0]
    planes = planes_of(image)
    keep, own, mean = (
        factor,
        (1 - factor) * (op == Op.SATURATION),
        (1 - factor) * (op == Op.CONTRAST),
    )
    blend_batch(planes, *(torch.tensor(w).float().view(1, 1, 1) for w in (keep, own, mean)))
    expected = exact(ADJUST[op], image, factor)
    assert worst(crop, expected) <= 0.05
    assert worst(image_of(planes, image), expected) <= 0.05
    # Pillow cuts the result down to an integer, and rounds the greys and their mean.
    assert worst(crop, ADJUST[op](Image.fromarray(image), factor)) <= 1.5


@pytest.mark.parametrize("turns", TURNS)
def test_hue_matches_torchvision(image, turns):
    expected = exact(TF.adjust_hue, image, turns)
    assert (
        worst(
            image_of(rotate_hues(planes_of(image), torch.tensor(turns).view(1, 1, 1)), image),
            expected,
        )
        <= 0.01
    )
    crop = crops_of(image[None], with_factor(Op.HUE, turns))[0]
    assert worst(crop, expected) <= 0.01
    # Pillow goes through 8-bit HSV, which has 255 hues: off by up to 14 levels on the noise.
    assert (
        np.abs(crop - np.asarray(TF.adjust_hue(Image.fromarray(image), turns), float)).mean() <= 2
    )


def test_a_third_of_a_turn_moves_red_to_green_to_blue(image):
    turned = image_of(rotate_hues(planes_of(image), torch.tensor(1 / 3).view(1, 1, 1)), image)
    assert worst(turned, image[..., [2, 0, 1]]) < 0.01


@pytest.mark.parametrize("sigma", [0.1, 0.4, 0.8, 1.0, 1.37, 2.0])
def test_blur_matches_torchvision_and_a_gaussian(image, sigma):
    kernel = 23 if min(image.shape[:2]) > 11 else 15
    expected = exact(TF.gaussian_blur, image, [kernel, kernel], [sigma, sigma])
    batch = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    ours = blur_batch(batch, np.float32([sigma]))[0].permute(1, 2, 0).numpy()
    assert worst(ours, expected) <= 0.5  # the tail beyond three sigmas
    assert worst(crops_of(image[None], appearance(sigma=np.float32([sigma]))), ours) <= 1e-3
    if kernel == 23:
        assert (
            worst(
                ours,
                gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror", truncate=8),
            )
            <= 0.5
        )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_blur_of_crops_smaller_than_the_kernel(size):
    crop = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    kernel = np.exp(-0.5 * (np.arange(-min(6, size - 1), min(6, size - 1) + 1) / 2.0) ** 2)
    expected = crop.astype(float)
    for axis in (0, 1):
        expected = correlate1d(expected, kernel / kernel.sum(), axis, mode="mirror")
    batch = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
    ours = blur_batch(batch, np.float32([2.0]))[0].permute(1, 2, 0)
    assert worst(ours, expected) < 1e-3
    assert worst(crops_of(crop[None], appearance(sigma=np.float32([2.0])))[0], expected) < 1e-3
    torch.testing.assert_close(
        blur_matrices(np.float32([2.0]), size, torch.device("cpu")).sum(2), torch.ones(1, size)
    )


def test_grey_and_solarize_match_torchvision(image):
    yes = np.ones(1, bool)
    for changes, function in (
        ({"grey": yes}, lambda x: TF.to_grayscale(x, 3)),
        ({"solarize": yes}, lambda x: TF.solarize(x, 128)),
    ):
        expected = function(Image.fromarray(image))
        crop, batch = both(image[None], appearance(**changes))
        assert worst(crop[0], expected) <= 1
        assert worst(batch[0], expected) <= 0.51  # to Pillow's rounding


def test_solarize_is_exact_on_every_level():
    levels = IMAGES["greys"]
    crop, batch = both(levels[None], appearance(solarize=np.ones(1, bool)))
    expected = np.where(levels < 128, levels, 255 - levels)
    np.testing.assert_allclose(crop[0], expected, atol=1e-4)
    np.testing.assert_allclose(batch[0], expected, atol=1e-4)


def test_the_identity_changes_nothing(image):
    crop, batch = both(image[None], appearance())
    np.testing.assert_allclose(crop[0], image, atol=1e-4)
    np.testing.assert_allclose(batch[0], image, atol=1e-4)


def test_normalise_matches_torchvision(image):
    normalise = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = (
        TF.normalize(TF.to_tensor(image), normalise.mean, normalise.std).permute(1, 2, 0).numpy()
    )
    out = np.empty(image.shape, np.float32)
    augment_crop(image, next(appearance().rows()), normalise, out)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    batch = augment_batch(torch.from_numpy(image[None]), appearance(), normalise)
    np.testing.assert_allclose(batch[0].numpy(), expected, atol=2e-6)
    assert batch.dtype == torch.float32


@pytest.mark.parametrize(
    ("mean", "std"),
    [((0, 0), (1, 1, 1)), ((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1, float("nan")))],
)
def test_senseless_statistics_are_refused(mean, std):
    with pytest.raises(InputError, match="three numbers each, and std above 0"):
        Normalise(mean, std)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, Appearance]:
    """Crops of a photograph, and what SEER's augmentation with some solarizing draws for them."""
    china, rng = load_sample_image("china.jpg"), np.random.default_rng(0)
    corners = rng.integers(0, (427 - 96, 640 - 96), (96, 2))
    crops = np.stack([china[top : top + 96, left : left + 96] for top, left in corners])
    u = crop_uniforms(0, np.zeros(96, int), np.arange(96), 0)
    return crops, concatenate(
        [
            draw_appearance(View(solarize=p), u[rows])
            for p, rows in ((0, slice(64)), (0.5, slice(64, 96)))
        ]
    )


def torchvision_chain(image, factors, order, grey, sigma, solarize):
    adjust = [*ADJUST.values(), TF.adjust_hue]
    for op in order:
        image = adjust[op](image, factors[op]) if op != Op.HUE or factors[op] else image
    image = TF.to_grayscale(image, 3) if grey and isinstance(image, Image.Image) else image
    image = TF.rgb_to_grayscale(image, 3) if grey and isinstance(image, torch.Tensor) else image
    image = TF.gaussian_blur(image, [23, 23], [sigma, sigma]) if sigma else image
    return TF.solarize(image, 128 if isinstance(image, Image.Image) else 0.5) if solarize else image


def test_the_whole_chain_matches_torchvision(drawn):
    crops, looks = drawn[0][::3], drawn[1][::3]
    chain = [
        exact(torchvision_chain, crop, *look)
        for crop, look in zip(crops, looks.rows(), strict=True)
    ]
    for ours in both(crops, looks):
        error = np.abs(ours - chain)
        assert error.mean() < 0.03
        assert error.max() < 0.6  # the tail of the blur
    pillow = [
        torchvision_chain(Image.fromarray(crop), *look)
        for crop, look in zip(crops, looks.rows(), strict=True)
    ]
    # Up to five operations in a row that truncate, and hue in 8 bits.
    assert np.abs(ours - np.stack([np.asarray(p, float) for p in pillow])).mean() < 1.5


def test_the_executors_agree(drawn):
    assert worst(*both(*drawn)) < 0.01


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 50),
    factors=st.tuples(
        *[st.one_of(st.just(1.0), st.floats(0, 3, width=32))] * 3, st.floats(-0.5, 0.5, width=32)
    ),
    order=st.sampled_from(ORDERS.tolist()),
    sigma=st.one_of(st.just(0.0), st.floats(0.0625, 8, width=32)),
    flags=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
def test_the_executors_agree_on_whatever_is_drawn(size, factors, order, sigma, flags, seed):
    images = np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    grey, solarize = (np.array([flag]) for flag in flags)
    looks = Appearance(
        np.float32([factors]), np.array([order]), grey, np.float32([sigma]), solarize
    )
    before = images.copy()
    assert worst(*both(images, looks)) < 0.01
    np.testing.assert_array_equal(images, before)


def test_a_crop_does_not_depend_on_its_batch(drawn, monkeypatch):
    crops, looks = drawn
    whole = augment_batch(torch.from_numpy(crops), looks, LEVELS)
    monkeypatch.setitem(augment._ROUND, "cpu", 7 * crops[0].size)
    torch.testing.assert_close(
        augment_batch(torch.from_numpy(crops), looks, LEVELS), whole, atol=1e-3, rtol=0
    )
    for row in (0, 17, 95):
        alone = augment_batch(torch.from_numpy(crops[row : row + 1]), looks[row : row + 1], LEVELS)
        torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-3, rtol=0)


def test_autocast_leaves_the_arithmetic_alone(drawn):
    crops, looks = torch.from_numpy(drawn[0][:16]), drawn[1][:16]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment_batch(crops, looks, LEVELS)
    torch.testing.assert_close(inside, augment_batch(crops, looks, LEVELS), atol=0, rtol=0)
