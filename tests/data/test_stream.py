"""Batches for other people's trainers: every sample once, whoever takes them and wherever they stop."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, IterableDataset, default_collate

from seer.data.crops.multicrop import MultiCrop, View
from seer.data.loader import LoaderConfig
from seer.data.storage.index import Manifest
from seer.data.stream import ShardStream, place_here
from seer.data.whole_samples import Members, SampleCutter, suffixes_of
from seer.errors import InputError
from shards.build import build
from shards.options import BuildOptions, DownloadOptions
from tests.kit.fuzzing import fuzz
from tests.kit.pictures import coloured_jpeg, jpeg, photograph
from tests.kit.shards import write_shards

SAMPLES = 40
CONFIG = LoaderConfig(workers=0, lanes=5, window=4)


def keys_of(batch: list[Members]) -> list[str]:
    return [sample["__key__"] for sample in batch]


def stream(
    manifest, batch, rank=0, world=1, *, epochs=1, steps=None, cutter=None, config=CONFIG, done=0
):
    length = steps * batch if steps else epochs * manifest.samples
    cutter = cutter or SampleCutter((), None, list)
    made = ShardStream(
        manifest, cutter, batch, length, seed=3, config=config, rank=rank, world_size=world
    )
    made.load_state_dict({"samples": done})
    return made


def taken(
    manifest, batch, world, done=0, stop_after=None, **options
) -> tuple[list[list[str]], int]:
    """The keys that all ranks together take, step by step, and the state that they stop in."""
    ranks = [stream(manifest, batch, r, world, done=done, **options) for r in range(world)]
    steps = []
    iterators = [iter(each) for each in ranks]
    for number, batches in enumerate(zip(*iterators, strict=True), start=1):
        steps.append([key for own in batches for key in keys_of(own)])
        if number == stop_after:
            break
    (state,) = {each.state_dict()["samples"] for each in ranks}
    return steps, state


def flat(steps: list[list[str]]) -> list[str]:
    return [key for step in steps for key in step]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return write_shards(tmp_path_factory.mktemp("shards"), [11, 0, 17, 12], labels=lambda i: i % 3)


@fuzz(15)
@given(data=st.data())
def test_each_sample_once_whatever_happens(manifest, data):
    """Ranks and batch change at every stop within the epoch."""
    done = 0
    seen: list[str] = []
    while done < SAMPLES:
        world = data.draw(st.integers(1, 4), "processes")
        batch = world * data.draw(st.integers(1, 6), "samples each")
        if 0 < (SAMPLES - done) % batch < world:
            continue  # which is refused, as below
        stop = data.draw(st.integers(1, 6), "steps until a kill")
        steps, done = taken(manifest, batch, world, done, stop)
        seen += flat(steps)
    assert done == SAMPLES
    assert sorted(seen) == [f"{i:09d}" for i in range(SAMPLES)]
    assert seen == flat(taken(manifest, 8, 1)[0])


def test_passes_have_orders_of_their_own(manifest):
    own = stream(manifest, 16)
    passes = [flat([keys_of(batch) for batch in own]) for _ in range(3)]
    assert len(own) == 3
    assert (own.consumed, own.epoch) == (3 * SAMPLES, 3)
    assert all(len(set(one)) == SAMPLES for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    again, _ = taken(manifest, 16, 1, done=SAMPLES)
    assert flat(again) == passes[1]


def test_batches_pass_the_ends_of_epochs_within_a_pass(manifest):
    steps, done = taken(manifest, 16, 2, epochs=3)
    assert [len(step) for step in steps] == [16] * 7 + [8]
    assert done == 3 * SAMPLES
    assert set(Counter(flat(steps)).values()) == {3}
    steps, done = taken(manifest, 16, 2, steps=5)
    assert [len(step) for step in steps] == [16] * 5
    assert set(Counter(flat(steps)).values()) == {2}


def test_the_state_counts_the_batch_in_hand(manifest):
    own = stream(manifest, 16)
    states = [own.state_dict() for _ in own]
    assert states == [{"samples": 16}, {"samples": 32}, {"samples": 40}]
    assert [len(batch) for batch in stream(manifest, 16, done=16)] == [16, 8]


def test_what_cannot_be_is_refused(manifest):
    with pytest.raises(InputError, match="batch_size=16 is no multiple of the 3 processes"):
        stream(manifest, 16, 0, 3)
    with pytest.raises(InputError, match="no rank=2 of world_size=2"):
        stream(manifest, 16, 2, 2)
    with pytest.raises(InputError, match="belong together"):
        stream(manifest, 16, 2, None)
    with pytest.raises(InputError, match="last batch of this pass has 1 samples for 3 processes"):
        list(stream(manifest, 39, 0, 3))
    assert len(list(stream(manifest, 39, 0, 3, steps=2))) == 2  # as it says
    with pytest.raises(InputError, match="is no state of it"):
        stream(manifest, 16, done=-1)
    within = DataLoader(Wrapped(stream(manifest, 16)), batch_size=None, num_workers=1)
    with pytest.raises(InputError, match="without a DataLoader around it"):
        list(within)


class Wrapped(IterableDataset):
    def __init__(self, inner):
        self.inner = inner

    def __iter__(self):
        return iter(self.inner)


def test_the_place_is_the_launchers(monkeypatch, manifest):
    assert place_here() == (0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    own = stream(manifest, 16, None, None)
    assert own.place() == (1, 2)
    assert [keys_of(batch) for batch in own] == [
        keys_of(batch) for batch in stream(manifest, 16, 1, 2)
    ]


# Samples


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Manifest:
    """Shards of images with and without captions, one of which is a PNG."""
    root = tmp_path_factory.mktemp("images")
    for i in range(12):
        folder = root / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:02d}.jpg").write_bytes(jpeg(photograph(i, 12, 16)))
    table = ["url,caption,label"]
    table += [
        f"file://{root}/photos/{'ab'[i % 2]}/{i:02d}.jpg,number {i},{i % 2}" for i in range(12)
    ]
    (root / "list.csv").write_text("\n".join(table))
    options = BuildOptions(workers=1, shard_size=5, download=DownloadOptions(allow_private=True))
    build([root / "list.csv"], root / "shards", options)
    return Manifest.load(root / "shards")


def test_samples_are_those_of_the_webdataset_library(built):
    tars = [str(built.directory / shard) for shard in built.shards]
    theirs = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        theirs[sample["__key__"]] = {k: v for k, v in sample.items() if k != "__local_path__"}
    assert len(theirs) == 12
    assert suffixes_of(built) == ("json", "txt")
    cutter = SampleCutter(suffixes_of(built), None, list)
    ours = {s["__key__"]: s for batch in stream(built, 4, cutter=cutter) for s in batch}
    assert ours == theirs
    assert ours.keys() == theirs.keys()
    image = next(iter(ours.values())).image
    assert (image.shape, image.dtype) == ((12, 16, 3), np.uint8)


def test_only_the_members_asked_for(built):
    (batch, *_) = stream(built, 4, cutter=SampleCutter(("txt",), None, list))
    assert batch[0].keys() == {"__key__", "__url__", "jpg", "cls", "txt"}


# Damage


DAMAGED = (3, 20)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory) -> Manifest:
    def image(i: int) -> bytes:
        whole = coloured_jpeg(i)
        return whole[: len(whole) // 2] if i in DAMAGED else whole

    return write_shards(tmp_path_factory.mktemp("damaged"), [11, 0, 17, 12], image=image)


def decoded(sample: Members) -> tuple[str, int]:
    return sample["__key__"], int(sample.image.mean())


def test_a_damaged_image_is_replaced_by_the_next_of_its_shard(damaged):
    cutter = SampleCutter((), decoded, list)
    whole = stream(damaged, 8, cutter=cutter)
    counts = Counter(key for batch in whole for key, _ in batch)
    expected = Counter(f"{i + (i in DAMAGED):09d}" for i in range(SAMPLES))
    assert counts == expected
    assert whole.replaced == 2
    halves = [stream(damaged, 8, rank, 2, cutter=cutter) for rank in range(2)]
    both = Counter(key for half in halves for batch in half for key, _ in batch)
    assert both == expected
    assert sum(half.replaced for half in halves) == 2


def test_samples_that_nobody_decodes_come_as_they_are(damaged):
    own = stream(damaged, 8)
    assert len({key for batch in own for key in keys_of(batch)}) == SAMPLES
    assert own.replaced == 0


def test_a_transforms_own_error_is_raised(damaged):
    def wrong(sample):
        raise KeyError("mask.png")

    with pytest.raises(KeyError, match=r"mask\.png"):
        list(stream(damaged, 8, cutter=SampleCutter((), wrong, list)))


# Workers


def drawn(sample: Members) -> tuple[str, float, float, float]:
    return sample["__key__"], torch.rand(1).item(), random.random(), float(np.random.rand())


@pytest.mark.slow
def test_workers_draw_the_same_of_a_sample_wherever_it_is_transformed(manifest):
    """A pass in two processes; what a kill leaves of it in one; and the next pass, which draws anew."""
    cutter = SampleCutter((), drawn, default_collate)
    numbers = {}
    for workers, done, epochs in ((2, 0, 2), (1, 16, 1)):
        config = LoaderConfig(workers=workers, lanes=5, window=4)
        own = stream(manifest, 8, cutter=cutter, config=config, done=done, epochs=epochs)
        steps = [tuple(zip(*batch, strict=True)) for batch in own]
        numbers[workers] = [row for step in steps for row in step]
    assert numbers[1] == numbers[2][16:SAMPLES]
    first, second = numbers[2][:SAMPLES], numbers[2][SAMPLES:]
    assert {row[0] for row in first} == {row[0] for row in second}
    assert not {row[1] for row in first} & {row[1] for row in second}
    assert len({row[1] for row in first}) == SAMPLES


def test_views_are_those_of_a_recipe_and_the_last_batch_is_smaller(manifest):
    crops = MultiCrop({"large": View(size=8, count=2)}, seed=3)
    config = LoaderConfig(workers=1, lanes=5, window=4)
    whole = list(stream(manifest, 16, cutter=crops, config=config))
    assert [tuple(views.crops[0].shape) for views in whole] == [
        (2, n, 3, 8, 8) for n in (16, 16, 8)
    ]
    halves = [list(stream(manifest, 16, rank, 2, cutter=crops)) for rank in range(2)]
    for views, *parts in zip(whole, *halves, strict=True):
        together = torch.cat([part.crops[0] for part in parts], 1)
        torch.testing.assert_close(views.crops[0], together)
        assert torch.equal(views.index, torch.cat([part.index for part in parts]))
