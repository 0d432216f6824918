"""Crops made in memory are those of the pipeline's own description; a step's images are a function
of the step.
"""

from itertools import permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from seer.data.crops.augment import Normalise, augment_batch
from seer.data.crops.draws import FLIP, UNIFORMS, Op, draw_appearance
from seer.data.crops.draws import draw_boxes as draw_on_host
from seer.data.crops.options import View
from seer.distributed import World
from seer.errors import InputError
from seer.speedrun.resident import (
    ResidentBatches,
    cut_and_colour,
    draw_boxes,
    recolour,
    resized_crops,
    whole,
)

PLAIN = View(size=8, blur=0.0)


def uniforms(seed: int, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, UNIFORMS, generator=generator, dtype=torch.float64)


def images(count: int, height: int = 12, width: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    shape = (count, height, width, 3)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def batches(
    count: int = 10, batch_size: int = 4, world: World | None = None, **views
) -> ResidentBatches:
    views = views or {"large": View(size=8, count=2, blur=0.0)}
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    return ResidentBatches(images(count), views, batch_size, 5, mean, std, world or World())


@given(
    st.integers(0, 2**32),
    st.sampled_from([(32, 32), (9, 40), (40, 3)]),
    st.sampled_from([[0.2, 1.0], [0.05, 0.2], [0.999, 1.0]]),
    st.sampled_from([[3 / 4, 4 / 3], [1.0, 1.0], [2.0, 3.0]]),
)
def test_boxes_are_those_that_the_host_draws(seed, shape, scale, ratio):
    view = View(size=8, scale=scale, ratio=ratio)
    u = uniforms(seed, 50)
    boxes = draw_boxes(view, *shape, u)
    expected = draw_on_host(view, np.full(50, shape[0]), np.full(50, shape[1]), u.numpy())
    made = torch.stack([boxes.top, boxes.left, boxes.height, boxes.width], 1)
    assert made.tolist() == expected.box.tolist()
    assert boxes.flip.tolist() == expected.flip.tolist()


@pytest.mark.parametrize("size", [5, 8, 20])
def test_crops_are_those_of_a_resize_with_antialiasing(size):
    pictures = images(3, 12, 15).permute(0, 3, 1, 2)
    u = uniforms(1, 12)
    boxes = draw_boxes(View(size=size, scale=[0.1, 1.0]), 12, 15, u)
    crops = resized_crops(pictures, boxes, size)
    assert crops.shape == (12, 3, size, size)
    for n in range(12):
        top, left = int(boxes.top[n]), int(boxes.left[n])
        height, width = int(boxes.height[n]), int(boxes.width[n])
        part = pictures[n % 3, :, top : top + height, left : left + width].float()[None]
        expected = F.interpolate(part, (size, size), mode="bilinear", antialias=True)[0]
        expected = expected.flip(2) if u[n, FLIP] < 0.5 else expected
        torch.testing.assert_close(crops[n], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("order", permutations(Op))
def test_colours_are_those_of_the_pipeline(order):
    view = View(size=6, blur=0.0, jitter=0.6, grey=0.3)
    u = uniforms(sum(k * op for k, op in enumerate(order)), 40)
    crops = images(40, 6, 6)
    looks = draw_appearance(view, u.numpy())
    looks.order[:] = order
    expected = augment_batch(crops, looks, Normalise((0, 0, 0), (1, 1, 1)))
    planes = crops.permute(0, 3, 1, 2).float().flatten(2)
    made = recolour(planes, view, u.float(), order) / 255
    torch.testing.assert_close(
        made.unflatten(2, (6, 6)), expected.permute(0, 3, 1, 2), atol=2e-5, rtol=0
    )


@pytest.mark.parametrize("size", [5, 12, 20])
def test_whole_images_are_resized(size):
    pictures = images(3, 12, 15)
    expected = F.interpolate(
        pictures.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True
    )
    torch.testing.assert_close(
        whole(pictures, size), expected.permute(0, 2, 3, 1), atol=1e-3, rtol=0
    )
    assert whole(pictures, 0) is pictures


def test_a_view_that_alters_nothing_shows_the_image():
    pictures = images(2, 8, 8).permute(0, 3, 1, 2)
    still = View(size=8, scale=[0.9999, 1.0], ratio=[1.0, 1.0], flip=0.0, jitter=0.0, grey=0.0)
    shown = cut_and_colour(pictures, still, uniforms(0, 4), tuple(Op))
    torch.testing.assert_close(shown, pictures.float().repeat(2, 1, 1, 1), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("samples", "batch_size"), [(10, 4), (9, 9), (7, 3)])
def test_every_image_comes_once_per_epoch(samples, batch_size):
    made = batches(samples, batch_size)
    stream = np.concatenate([made.ids(step) for step in range(3 * samples)])
    epochs = stream.reshape(-1, samples)
    assert (np.sort(epochs, 1) == np.arange(samples)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_step_is_the_same_wherever_a_run_begins():
    whole = list(batches().iterate(0, 6))
    later = list(batches().iterate(4, 6))
    for a, b in zip(whole[4:], later, strict=True):
        assert torch.equal(a.crops[0], b.crops[0])
        assert torch.equal(a.index, b.index)
    assert not torch.equal(whole[0].crops[0], whole[1].crops[0])
    passed_over = list(batches().iterate(0, 6, skipped={1, 2}))
    assert [v.index.tolist() for v in passed_over] == [
        whole[n].index.tolist() for n in (0, 3, 4, 5)
    ]


def test_ranks_share_the_batch_that_one_process_would_make():
    alone = next(batches().iterate(3, 4))
    shares = [next(batches(world=World(rank, 2)).iterate(3, 4)) for rank in range(2)]
    assert torch.equal(torch.cat([share.index for share in shares]), alone.index)
    assert torch.equal(torch.cat([share.crops[0] for share in shares], 1), alone.crops[0])


def test_what_was_seen_is_the_same_in_one_process_and_in_two():
    alone = batches()
    shares = [batches(world=World(rank, 2)) for rank in range(2)]
    for part in (alone, *shares):
        list(part.iterate(0, 3))
    assert alone.seen == sum(part.seen for part in shares) % (1 << 48)


def test_a_survey_passes_over_all_images():
    seen = {i for views in batches(10, 4).survey(2) for i in views.index.tolist()}
    assert seen == set(range(10))


def test_views_are_grouped_by_size_and_lie_channels_last():
    made = batches(
        small=View(size=5, count=1, blur=0.0),
        large=View(size=8, count=2, blur=0.0),
        other=View(size=5, count=3, blur=0.0),
        none=View(size=4, count=0),
    )
    views = next(made.iterate(0, 1))
    assert [tuple(crops.shape) for crops in views.crops] == [(2, 4, 3, 8, 8), (4, 4, 3, 5, 5)]
    for crops in views.crops:
        assert crops.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_crops_are_normalised():
    still = View(
        size=12, scale=[0.9999, 1.0], ratio=[1.0, 1.0], flip=0.0, jitter=0.0, grey=0.0, blur=0.0
    )
    made = batches(large=still)
    views = next(made.iterate(0, 1))
    shown = views.crops[0][0].permute(0, 2, 3, 1) * torch.tensor([0.2, 0.3, 0.4]) + torch.tensor(
        [0.5, 0.4, 0.3]
    )
    torch.testing.assert_close(shown * 255, images(10)[views.index].float(), atol=2e-3, rtol=0)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(InputError, match=r"views.large: crops in memory .* set blur=0"):
        batches(large=View(size=8))
    with pytest.raises(InputError, match="3 images are fewer than one batch; use batch_size=3"):
        batches(3)
