"""The fused kernels against the plain functions."""

from importlib import import_module
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seer import kernels as registry
from seer.data.crops import executors
from seer.data.crops.augment import (
    Normalise,
    augment_plain,
    blur_radii,
    blur_radius,
    blur_taps,
)
from seer.data.crops.device import cut, cut_plain, encode
from seer.data.crops.draws import ORDERS, Appearance, Boxes, Op
from seer.data.crops.multicrop import MultiCrop, View
from tests.kit.interpreter import (
    DEVICE,
    compile_for_hopper,
    compiled,
    in_kernels,
    with_kernels,  # noqa: F401
)
from tests.kit.pictures import jpeg, photograph

LEVELS = Normalise((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # leaves levels as they are
CHOICES = [(1.0, 0.0), (0.0, 0.2), (1.8, -0.5)]  # a factor, and a turn of the hue


POINTERS = {
    "fused_cut._cut": {"table": "*i64", "out": "*u8"},
    "fused_alter._mean_greys": {"crops": "*u8", "looks": "*fp32", "means": "*fp32"},
    "fused_alter._alter": {"crops": "*u8", "looks": "*fp32", "means": "*fp32", "out": "*fp32"},
    "fused_alter._blur_rows": dict.fromkeys(("levels", "looks", "rows", "between"), "*fp32"),
    "fused_alter._blur_columns": dict.fromkeys(("between", "looks", "rows", "out"), "*fp32"),
}


@compiled
@pytest.mark.parametrize("name", POINTERS)
def test_the_compiler_takes_them(name):
    pytest.importorskip("triton")
    module = import_module(f"seer.data.crops.{name.split('.')[0]}")
    kernel = getattr(module, name.split(".")[1])
    constants = {"SIZE": 96, "BLOCK": module.BLOCK}
    assert compile_for_hopper(kernel, POINTERS[name], constants, "fp32")["cubin"]


def pictures(*shapes: tuple[int, int]) -> list[torch.Tensor]:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (3, *shape), dtype=np.uint8) for shape in shapes]
    return [torch.from_numpy(array).to(DEVICE) for array in arrays]


def boxes(*rows: tuple[int, int, int, int, bool]) -> Boxes:
    return Boxes(np.array([row[:4] for row in rows]), np.array([row[4] for row in rows]))


def off_by(images: list[torch.Tensor], where: Boxes, size: int) -> float:
    """How far the kernel's crops are from the exact result, in levels; rounding takes half of one."""
    from seer.data.crops import fused

    (found,) = fused.cut(images, (where,), [size])
    worst = 0.0
    for n, crop in enumerate(found.cpu()):
        top, left, height, width = where.box[n]
        part = images[n % len(images)][:, top : top + height, left : left + width].cpu()
        exact = F.interpolate(part[None].double(), (size, size), mode="bilinear", antialias=True)
        exact = exact.flip(3) if where.flip[n] else exact
        worst = max(worst, float((crop.permute(2, 0, 1) - exact[0]).abs().max()))
    return worst


@in_kernels
@pytest.mark.parametrize("size", [8, 23])
def test_crops_are_pillows(size):
    """Of two pictures in turn: whole, shrunk, grown, at each edge, one pixel, one row, mirrored."""
    images = pictures((41, 30), (64, 57))
    where = boxes(
        (0, 0, 41, 30, False), (0, 0, 64, 57, True),
        (40, 29, 1, 1, False), (63, 0, 1, 57, True),
        (0, 29, 41, 1, True), (32, 31, 32, 26, False),
        (3, 0, 8, 8, False), (0, 5, 23, 46, True),
        (17, 11, 5, 3, True), (1, 2, 60, 3, False),
    )  # fmt: skip
    assert off_by(images, where, size) < 0.5 + 1e-3


@in_kernels
@settings(max_examples=8, deadline=None)
@given(data=st.data(), size=st.sampled_from([1, 2, 9]))
def test_any_box_is_cut(data, size):
    height, width = (data.draw(st.integers(1, 20)) for _ in range(2))
    images = pictures((height, width), (7, 5))
    rows = []
    for rows_in, columns_in in ((height, width), (7, 5)):
        top = data.draw(st.integers(0, rows_in - 1))
        left = data.draw(st.integers(0, columns_in - 1))
        sides = (st.integers(1, rows_in - top), st.integers(1, columns_in - left))
        rows.append((top, left, *map(data.draw, sides), data.draw(st.booleans())))
    assert off_by(images, boxes(*rows), size) < 0.5 + 1e-3


@in_kernels
def test_all_resolutions_are_cut_as_the_plain_function_does():
    images = pictures((30, 40), (50, 20), (9, 9))
    rng = np.random.default_rng(1)
    groups = []
    for views in (2, 3):
        corners = rng.integers(0, 3, (3 * views, 2))
        sides = rng.integers(1, 7, (3 * views, 2))
        groups.append(Boxes(np.concatenate([corners, sides], 1), rng.random(3 * views) < 0.5))
    from seer.data.crops import fused

    found = fused.cut(images, tuple(groups), [16, 8])
    for ours, plain in zip(found, cut_plain(images, groups, [16, 8]), strict=True):
        assert ours.dtype == torch.uint8
        assert ours.shape == plain.shape
        assert (ours.int() - plain.int()).abs().max() <= 1
        assert (ours != plain).float().mean() < 0.01  # halves


@in_kernels
@pytest.mark.parametrize("row", [(0, 0, 5, 3), (-1, 0, 2, 2), (2, 1, 2, 4), (0, 0, 0, 2)])
def test_a_box_that_leaves_its_image_is_refused(row):
    from seer.data.crops import fused

    with pytest.raises(RuntimeError, match="leaves its image of 4x4 pixels"):
        fused.cut(pictures((4, 4)), (boxes((*row, False)),), [8])


@in_kernels
@pytest.mark.usefixtures("with_kernels")
def test_a_batch_is_decoded_cut_and_altered_as_without(monkeypatch):
    """The whole way, with the choice of the executor."""
    kernels = executors.kernels_for(DEVICE)
    assert kernels.__name__ == "seer.data.crops.fused"
    views = {
        "large": View(size=16, count=1, solarize=0.3),
        "small": View(size=8, count=2, scale=[0.1, 0.3]),
    }
    crops = MultiCrop(views, seed=1, finish=False)
    images = [jpeg(photograph(i, 20 + i, 30)) for i in range(2)]
    encoded = encode(images, crops, np.zeros(2, np.int64), np.arange(2))
    calls = []
    for name in ("cut", "alter"):
        function = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *args, f=function: calls.append(f.__name__) or f(*args)
        )
    ours = cut(encoded, crops, DEVICE)
    finished = crops.finish(ours, DEVICE)
    assert calls == ["cut", "alter", "alter"]
    monkeypatch.setattr(registry, "DEVICES", set())
    registry.kernels_for.cache_clear()
    plain = cut(encoded, crops, DEVICE)
    for a, b in zip(ours.crops, plain.crops, strict=True):
        assert (a.int() - b.int()).abs().max() <= 1
    for a, b in zip(finished.crops, crops.finish(ours, DEVICE).crops, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)
    assert calls == ["cut", "alter", "alter"]


def looks_of(rows: list[tuple]) -> Appearance:
    factors, order, grey, sigma, solarize = zip(*rows, strict=True)
    return Appearance(
        np.array(factors, np.float32), np.array(order), np.array(grey),
        np.array(sigma, np.float32), np.array(solarize),
    )  # fmt: skip


def differ_by(size: int, looks: Appearance, normalise: Normalise = LEVELS) -> float:
    from seer.data.crops import fused

    rng = np.random.default_rng(size)
    crops = torch.from_numpy(rng.integers(0, 256, (len(looks), size, size, 3), dtype=np.uint8))
    crops[0, 0, 0] = torch.tensor([7, 7, 7])  # no chroma
    crops[0, 0, -1] = torch.tensor([255, 255, 0])  # two channels at the top
    on_device = crops.to(DEVICE)
    radii = blur_radii(looks.sigma, size)
    ours = fused.alter(on_device, looks, radii, *normalise.weights)
    plain = augment_plain(on_device, looks, normalise)
    assert ours.dtype == torch.float32
    assert torch.equal(on_device.cpu(), crops)
    return float((ours - plain).abs().max())


@in_kernels
def test_every_combination_of_looks_is_altered_as_by_the_plain_function():
    switches = product(CHOICES, [False, True], [0.0, 1.3], [False, True])
    rows = [
        ((factor, 0.7 * factor + 0.3, 2 - factor, turn), ORDERS[(5 * n) % 24], grey, sigma, solar)
        for n, ((factor, turn), grey, sigma, solar) in enumerate(switches)
    ]
    assert differ_by(9, looks_of(rows)) < 0.01


@in_kernels
def test_every_order_is_applied():
    rows = [((1.6, 1.7, 0.2, 0.15), order, False, 0.0, False) for order in ORDERS]
    assert differ_by(8, looks_of(rows)) < 0.01


@in_kernels
@pytest.mark.parametrize(("size", "sigma"), [(1, 2.0), (2, 0.1), (3, 8.0), (9, 2.0), (24, 5.0)])
def test_crops_smaller_than_the_blur_reaches(size, sigma):
    identity = (1.0, 1.0, 1.0, 0.0)
    rows = [(identity, ORDERS[0], False, value, False) for value in (sigma, 0.0, sigma / 2)]
    assert differ_by(size, looks_of(rows)) < 0.01


@in_kernels
def test_crops_of_several_programs_each_channel_normalised_by_its_own():
    from seer.data.crops import fused_alter

    size = 47
    assert size * size > fused_alter.MEAN_BLOCK > fused_alter.BLOCK
    normalise = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    factors = (1.1, 0.3, 0.9, 0.1)
    rows = [(factors, ORDERS[7], False, sigma, False) for sigma in (0.0, 0.6)]
    assert differ_by(size, looks_of(rows), normalise) < 1e-4


@in_kernels
@settings(max_examples=8, deadline=None)
@given(
    size=st.integers(1, 24),
    factors=st.tuples(*[st.floats(0, 3, width=32)] * 3, st.floats(-0.5, 0.5, width=32)),
    order=st.sampled_from(ORDERS.tolist()),
    sigma=st.one_of(st.just(0.0), st.floats(0.0625, 8, width=32)),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_whatever_is_drawn_is_altered_as_by_the_plain_function(size, factors, order, sigma, flags):
    grey, solarize = flags
    assert differ_by(size, looks_of([(factors, order, grey, sigma, solarize)])) < 0.01


@in_kernels
def test_no_crops_are_none():
    from seer.data.crops import fused

    none = torch.empty((0, 8, 8, 3), dtype=torch.uint8, device=DEVICE)
    looks = looks_of([((1, 1, 1, 0), ORDERS[0], False, 0.0, False)])[:0]
    assert fused.alter(none, looks, np.zeros(0, np.int64), *LEVELS.weights).shape == none.shape


def test_radii_are_those_of_each_crop():
    sigmas = np.float32([0, 0.01, 0.1, 1 / 3, 0.7, 1, 2, 2.1, 9])
    for size in (1, 2, 7, 224):
        expected = [blur_radius(sigma, size) if sigma else 0 for sigma in sigmas.tolist()]
        assert blur_radii(sigmas, size).tolist() == expected


@in_kernels
def test_the_table_of_looks_says_what_was_drawn():
    from seer.data.crops.fused_alter import look_table

    looks = looks_of(
        [
            ((0.5, 0.6, 0.7, 0.1), [Op.HUE, Op.SATURATION, Op.CONTRAST, Op.BRIGHTNESS], True, 2.0, False),
            ((1.0, 1.0, 1.0, 0.0), [Op.CONTRAST, Op.HUE, Op.BRIGHTNESS, Op.SATURATION], False, 0.0, True),
        ]
    )  # fmt: skip
    first, second = look_table(looks, np.array([6, 0]))
    np.testing.assert_allclose(first[:8], [3, 0.1, 2, 0.7, 1, 0.6, 0, 0.5])
    assert first[8:12].tolist() == [2, 1, 0, 6]
    taps = blur_taps(2.0, 224)
    np.testing.assert_allclose(first[13] * np.exp(-first[12] * np.arange(7) ** 2), taps, rtol=1e-5)
    # No shift of hue, and no contrast.
    assert second[:8].tolist() == [1, 1, 0, 1, 0, 1, 2, 1]
    assert second[8:12].tolist() == [-1, 0, 1, 0]
