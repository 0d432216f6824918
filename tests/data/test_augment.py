"""Every operation of both executors against torchvision's on the same pixels, and the executors against each other.

Tolerances are in levels of 255. The crop executor is compared with torchvision on 8-bit Pillow images, the batch
executor with torchvision on float64 tensors, whose arithmetic is the same without rounding.
"""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from scipy.ndimage import correlate1d, gaussian_filter
from sklearn.datasets import load_sample_image

from seer.data import augment
from seer.data.augment import (
    Normalise,
    augment_batch,
    augment_crop,
    blend,
    blend_batch,
    blur,
    blur_batch,
    blur_matrices,
    rotate_hue,
    rotate_hues,
)
from seer.data.draws import Appearance, Op, View, concatenate, crop_uniforms, draw_appearance
from seer.errors import InputError

LEVELS = Normalise((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # leaves levels as they are
FACTORS = [0.0, 0.2, 0.73, 1.3, 1.8]
TURNS = [-0.5, -0.2, -0.013, 0.1, 0.2, 0.5]
ADJUST = {Op.BRIGHTNESS: TF.adjust_brightness, Op.CONTRAST: TF.adjust_contrast, Op.SATURATION: TF.adjust_saturation}


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


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("op", ADJUST)
def test_blends_match_torchvision(image, op, factor):
    crop = image.copy()
    blend(crop, op, factor)
    assert worst(crop, ADJUST[op](Image.fromarray(image), factor)) <= 1
    planes = planes_of(image)
    keep, own, mean = factor, (1 - factor) * (op == Op.SATURATION), (1 - factor) * (op == Op.CONTRAST)
    blend_batch(planes, *(torch.tensor(w).float().view(1, 1, 1) for w in (keep, own, mean)))
    # Torchvision's luma on tensors has weights of four digits, 0.2989 + 0.587 + 0.114.
    assert worst(image_of(planes, image), exact(ADJUST[op], image, factor)) <= 0.05


@pytest.mark.parametrize("turns", TURNS)
def test_hue_matches_torchvision(image, turns):
    expected = exact(TF.adjust_hue, image, turns)
    assert worst(image_of(rotate_hues(planes_of(image), torch.tensor(turns).view(1, 1, 1)), image), expected) <= 0.01
    crop = image.copy()
    rotate_hue(crop, turns)
    # 8-bit HSV has 255 hues; Pillow's own errs by up to 14 levels on this noise, 0.8 on average.
    assert worst(crop, expected) <= 11
    assert np.abs(crop - expected).mean() <= 1


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
    assert worst(blur(image, sigma), expected) <= 1
    if kernel == 23:
        assert worst(ours, gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="mirror", truncate=8)) <= 0.5


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
    assert worst(blur(crop, 2.0), expected) <= 1
    torch.testing.assert_close(blur_matrices(np.float32([2.0]), size, torch.device("cpu")).sum(2), torch.ones(1, size))


def appearance(count: int = 1, **changes) -> Appearance:
    """The identity but for `changes`."""
    order = np.tile(np.arange(4), (count, 1))
    factors = np.tile(np.float32([1, 1, 1, 0]), (count, 1))
    off = np.zeros(count, bool)
    return Appearance(
        **{"factors": factors, "order": order, "grey": off, "sigma": off * np.float32(0), "solarize": off} | changes
    )


def both(images: np.ndarray, looks: Appearance) -> tuple[np.ndarray, np.ndarray]:
    """`(N, S, S, 3)` in levels, by the crop and by the batch executor."""
    crops = np.stack([augment_crop(image.copy(), *look) for image, look in zip(images, looks.rows(), strict=True)])
    return crops, augment_batch(torch.from_numpy(images), looks, LEVELS).numpy()


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
    np.testing.assert_array_equal(crop[0], expected)
    np.testing.assert_allclose(batch[0], expected, atol=1e-4)


def test_the_identity_changes_nothing(image):
    crop, batch = both(image[None], appearance())
    np.testing.assert_array_equal(crop[0], image)
    np.testing.assert_allclose(batch[0], image, atol=1e-4)


def test_normalise_matches_torchvision(image):
    normalise = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    expected = TF.normalize(TF.to_tensor(image), normalise.mean, normalise.std).permute(1, 2, 0).numpy()
    out = np.empty(image.shape, np.float32)
    normalise.crop(image, out)
    np.testing.assert_allclose(out, expected, atol=2e-6)
    batch = augment_batch(torch.from_numpy(image[None]), appearance(), normalise)
    np.testing.assert_allclose(batch[0].numpy(), expected, atol=2e-6)
    assert batch.dtype == torch.float32


@pytest.mark.parametrize(
    ("mean", "std"), [((0, 0), (1, 1, 1)), ((0, 0, 0), (1, 1, 0)), ((0, 0, 0), (1, 1, float("nan")))]
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
        [draw_appearance(View(solarize=p), u[rows]) for p, rows in ((0, slice(64)), (0.5, slice(64, 96)))]
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
    ours, batch = both(crops, looks)
    chain = [exact(torchvision_chain, crop, *look) for crop, look in zip(crops, looks.rows(), strict=True)]
    error = np.abs(batch - chain)
    assert error.mean() < 0.03
    assert error.max() < 0.6  # the tail of the blur
    error = np.abs(ours - np.array(chain))
    assert error.mean() < 0.5
    assert np.quantile(error, 0.999) <= 6  # 8-bit hue
    pillow = [torchvision_chain(Image.fromarray(crop), *look) for crop, look in zip(crops, looks.rows(), strict=True)]
    assert np.abs(ours - np.stack([np.asarray(p, float) for p in pillow])).mean() < 1.2  # Pillow truncates


def test_the_executors_agree(drawn):
    crop, batch = both(*drawn)
    error = np.abs(crop - batch)
    assert error.mean() < 0.5
    assert error.mean((1, 2, 3)).max() < 1.5  # no crop was given another's parameters, order or operation
    assert np.quantile(error, 0.999) <= 6


def test_a_crop_does_not_depend_on_its_batch(drawn, monkeypatch):
    crops, looks = drawn
    whole = augment_batch(torch.from_numpy(crops), looks, LEVELS)
    monkeypatch.setitem(augment._ROUND, "cpu", 7 * crops[0].size)
    torch.testing.assert_close(augment_batch(torch.from_numpy(crops), looks, LEVELS), whole, atol=1e-3, rtol=0)
    for row in (0, 17, 95):
        alone = augment_batch(torch.from_numpy(crops[row : row + 1]), looks[row : row + 1], LEVELS)
        torch.testing.assert_close(alone, whole[row : row + 1], atol=1e-3, rtol=0)


def test_autocast_leaves_the_arithmetic_alone(drawn):
    crops, looks = torch.from_numpy(drawn[0][:16]), drawn[1][:16]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = augment_batch(crops, looks, LEVELS)
    torch.testing.assert_close(inside, augment_batch(crops, looks, LEVELS), atol=0, rtol=0)
