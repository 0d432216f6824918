import numpy as np
import pytest

from seer.data.decoding.decode import decode
from seer.data.labelled import splits
from seer.errors import InputError
from seer.quickstart import pictures
from seer.quickstart.pictures import photographs, write_quickstart


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    out = tmp_path_factory.mktemp("quickstart")
    return out, write_quickstart(out, train=30, test=10)


def positions(photo: np.ndarray, patch: np.ndarray) -> tuple[int, int]:
    """Where a patch lies in its photograph, found by search."""
    size, best = len(patch), None
    windows = np.lib.stride_tricks.sliding_window_view(
        photo[..., 1].astype(np.float32), (size, size)
    )
    probe = patch[..., 1].astype(np.float32)
    # Sixteen pixels tell candidates apart; the whole patch decides among the best of them.
    points = [(y, x) for y in range(4, size, size // 4) for x in range(4, size, size // 4)]
    cost = sum((windows[:, :, y, x] - probe[y, x]) ** 2 for y, x in points)
    candidates = np.argsort(cost, axis=None)[:200]
    for place in candidates:
        top, left = np.unravel_index(place, cost.shape)
        error = np.abs(windows[top, left] - probe).mean()
        if best is None or error < best[0]:
            best = (error, int(top), int(left))
    assert best is not None
    assert best[0] < 8  # JPEG's error
    return best[1:]


def test_photographs_are_real_ones_in_colour_or_grey():
    photos = photographs()
    assert len(photos) == 14
    for photo in photos.values():
        assert photo.dtype == np.uint8
        assert photo.ndim == 3
        assert min(photo.shape[:2]) >= 300
        assert max(photo.shape[:2]) <= 640
    assert len({photo.tobytes() for photo in photos.values()}) == 14


def test_layout_is_class_folders(quickstart):
    out, counts = quickstart
    assert counts == {"train": 14 * 30, "test": 14 * 10}
    train, test = splits(out)
    assert train.classes == sorted(photographs())
    assert np.bincount(train.labels).tolist() == [30] * 14
    assert np.bincount(test.labels).tolist() == [10] * 14
    assert train.image(0).shape == (64, 64, 3)


@pytest.mark.parametrize("name", ["astronaut", "china", "coins"])
def test_training_and_test_patches_share_no_pixel(quickstart, name):
    """Shown on the written files, not on the code's own notion of where they come from."""
    photo = photographs()[name]
    covered = {}
    for split in ("train", "test"):
        covered[split] = np.zeros(photo.shape[:2], bool)
        for path in sorted((quickstart[0] / split / name).iterdir()):
            top, left = positions(photo, decode(path.read_bytes()))
            covered[split][top : top + 64, left : left + 64] = True
    assert covered["train"].any()
    assert covered["test"].any()
    train, test = (np.flatnonzero(covered[split].any(axis=0)) for split in ("train", "test"))
    assert np.abs(train[:, None] - test[None]).min() > pictures.GAP  # columns between them


def test_patches_are_distinct_and_the_same_every_time(quickstart, tmp_path):
    first = {
        path.relative_to(quickstart[0]): path.read_bytes() for path in quickstart[0].rglob("*.jpg")
    }
    write_quickstart(tmp_path, train=30, test=10)
    assert {
        path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.jpg")
    } == first
    assert len(set(first.values())) == len(first)


def test_sizes_and_numbers_are_options(tmp_path):
    assert write_quickstart(tmp_path, size=32, train=3, test=2) == {"train": 42, "test": 28}
    patch = next(tmp_path.rglob("*.jpg")).read_bytes()
    assert decode(patch).shape == (32, 32, 3)


def test_a_photograph_that_is_gone_is_said(monkeypatch):
    monkeypatch.setitem(pictures.SKLEARN, "china", "renamed.jpg")
    with pytest.raises(InputError, match=r"renamed.jpg is missing; pip install"):
        photographs()


def test_sources_are_named():
    assert pictures.__doc__ is not None
    assert all(f"{name}" in pictures.__doc__ for name in photographs())
