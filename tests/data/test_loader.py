import gc
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from multiprocessing import active_children, get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from seer.data import delivery
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.decoding.decode import decode
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage import reader
from seer.data.views import Views
from seer.errors import InputError
from tests.kit.pictures import coloured_jpeg
from tests.kit.shards import write_shards

ROOT = Path(__file__).parent.parent.parent
VIEWS = {"large": View(size=12, count=2), "small": View(size=6, count=3, scale=[0.1, 0.5])}
PLAIN = {
    "whole": View(size=16, count=1, scale=[1, 1], ratio=[1, 1], flip=0, jitter=0, grey=0, blur=0)
}
MODES = [
    LoaderConfig(workers=0),
    LoaderConfig(workers=2, mode="threads"),
    LoaderConfig(workers=2, mode="processes"),
]
BATCH = 6


def make(manifest, crops=None, config=MODES[0], **options) -> Loader:
    order = Order(manifest.sizes, seed=3, lanes=4, window=5)
    return Loader(
        manifest,
        order,
        crops or MultiCrop(VIEWS, seed=3),
        batch_size=BATCH,
        config=config,
        **options,
    )


def equal(a: Views, b: Views) -> bool:
    return bool((a.index == b.index).all()) and all(
        torch.equal(x, y) for x, y in zip(a.crops, b.crops, strict=True)
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Forty noisy pictures in three shards."""

    def noise(i: int) -> bytes:
        import simplejpeg

        return simplejpeg.encode_jpeg(
            np.random.default_rng(i).integers(0, 256, (24, 20, 3)).astype(np.uint8)
        )

    return write_shards(tmp_path_factory.mktemp("photos"), [11, 17, 12], image=noise)


@pytest.mark.parametrize("finish", [True, False])
@pytest.mark.parametrize("config", MODES, ids=["inline", "threads", "processes"])
def test_every_mode_makes_the_batches_that_the_order_says(photos, config, finish):
    crops = MultiCrop(VIEWS, seed=3, finish=finish)
    loader = make(photos, crops, config)
    batches = list(loader.iterate(0, 15))  # more than two epochs
    assert (
        torch.cat([views.index for views in batches]).tolist()
        == loader.order.ids(0, 15 * BATCH).tolist()
    )
    for step, views in enumerate(batches):
        positions = np.arange(step * BATCH, (step + 1) * BATCH)
        images = [decode(data) for data in loader.reader.read(views.index.numpy())]
        by_hand = crops.finish(crops(images, positions // 40, views.index.numpy()), "cpu")
        assert equal(views, by_hand)
    assert [tuple(c.shape) for c in batches[0].crops] == [
        (2, BATCH, 3, 12, 12),
        (3, BATCH, 3, 6, 6),
    ]


def test_ranks_share_the_global_batch(photos):
    whole = list(make(photos).iterate(0, 9))
    for world_size in (2, 3, 6):
        ranks = [
            make(photos, rank=rank, world_size=world_size).iterate(0, 9)
            for rank in range(world_size)
        ]
        for views, shares in zip(whole, zip(*ranks, strict=True), strict=True):
            assert torch.equal(torch.cat([share.index for share in shares]), views.index)
            for k, crops in enumerate(views.crops):
                assert torch.equal(torch.cat([share.crops[k] for share in shares], dim=1), crops)


def test_continues_from_any_step(photos):
    undisturbed = list(make(photos).iterate(0, 9))
    for start in (1, 6, 8):
        assert all(map(equal, make(photos).iterate(start, 9), undisturbed[start:]))
    assert list(make(photos).iterate(4, 4)) == []


def test_crops_of_a_sample_differ_between_epochs(photos):
    loader = make(photos)
    seen: dict[int, list[torch.Tensor]] = {}
    for views in loader.iterate(0, 20):
        for i, sample in enumerate(views.index.tolist()):
            seen.setdefault(sample, []).append(views.crops[0][:, i])
    assert all(not torch.equal(a, b) for crops in seen.values() for a, b in pairwise(crops))


@pytest.mark.parametrize("finish", [True, False])
def test_large_pictures_are_decoded_as_small_as_their_crops_allow(tmp_path, finish, monkeypatch):
    """The third of them is damaged, which only its last bytes tell."""

    def picture(i: int) -> bytes:
        return coloured_jpeg(i, 512)[: -30 if i == 2 else None]

    reductions = []

    def spy(data, reduction=1):
        reductions.append(reduction)
        return decode(data, reduction=reduction)

    for user in (delivery, reader):  # the latter decodes what replaces it
        monkeypatch.setattr(user, "decode", spy)
    plain = {
        "large": View(size=12, jitter=0, grey=0),
        "small": View(size=6, scale=[0.1, 0.5], jitter=0, grey=0),
    }
    crops = MultiCrop(plain, seed=3, finish=finish, mean=(0, 0, 0), std=(1 / 255,) * 3)
    loader = make(write_shards(tmp_path, [6], image=picture), crops)
    (views,) = loader.iterate(0, 1)
    expected = [3 if i == 2 else i for i in views.index.tolist()]
    for c in views.crops:
        assert (c - torch.tensor(expected)[None, :, None, None, None]).abs().max() <= 1
    assert loader.replaced == 1
    assert sorted(reductions) == [1, 8, 8, 8, 8, 8, 8]


@pytest.mark.parametrize("config", MODES, ids=["inline", "threads", "processes"])
def test_damaged_samples_are_replaced_by_the_next_of_their_shard(tmp_path, config):
    # Sample → what stands for it; the first shard ends with sample 10.
    damaged = {3: 4, 9: 0, 10: 0, 11: 12}
    manifest = write_shards(
        tmp_path, [11, 17], image=lambda i: b"" if i in damaged else coloured_jpeg(i, 16)
    )
    crops = MultiCrop(PLAIN, seed=0, mean=[0, 0, 0], std=[1, 1, 1])
    loader = make(manifest, crops, config)
    grey = {}
    for views in loader.iterate(0, 5):
        # Flat, whatever the rounding.
        assert np.ptp(views.crops[0].numpy(), axis=(0, 2, 3, 4)).max() < 0.01
        grey |= dict(
            zip(
                views.index.tolist(),
                (views.crops[0].mean((0, 2, 3, 4)) * 255).round().tolist(),
                strict=True,
            )
        )
    assert grey == {i: float(damaged.get(i, i)) for i in range(28)}
    assert loader.replaced == sum(loader.order.ids(0, 5 * BATCH).tolist().count(i) for i in damaged)


@pytest.mark.parametrize("config", MODES, ids=["inline", "threads", "processes"])
def test_a_shard_without_a_readable_image_is_the_users_error(tmp_path, config):
    manifest = write_shards(
        tmp_path, [4, 4], image=lambda i: coloured_jpeg(i) if i < 4 else b"junk"
    )
    with pytest.raises(
        InputError, match=r"shard-000001.tar has no readable image left; run: seer shards verify"
    ) as e:
        list(make(manifest, config=config).iterate(0, 2))
    assert "\n" not in str(e.value)


class Failing(MultiCrop):
    """Fails at the third step."""

    def plan(self, shapes, epochs, ids):
        if int(epochs[0]) * 40 + BATCH > 40:
            self.fail()
        return super().plan(shapes, epochs, ids)

    def fail(self):
        raise ZeroDivisionError("a bug of ours")


class Misplaced(Failing):
    """Fails as a worker's death would show itself."""

    def fail(self):
        raise FileNotFoundError("a file that is gone")


class Dying(Failing):
    """Is killed, as the kernel kills when memory runs out."""

    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("config", MODES, ids=["inline", "threads", "processes"])
def test_an_exception_reaches_the_consumer(photos, config):
    with pytest.raises(ZeroDivisionError, match="a bug of ours"):
        list(make(photos, Failing(VIEWS, seed=0), config).iterate(0, 20))
    with pytest.raises(FileNotFoundError, match="a file that is gone"):
        list(make(photos, Misplaced(VIEWS, seed=0), config).iterate(0, 20))


def test_a_killed_worker_is_an_error_and_no_hang(photos):
    with pytest.raises(RuntimeError, match=r"a loader worker died .*use fewer loader.workers"):
        list(make(photos, Dying(VIEWS, seed=0), MODES[2]).iterate(0, 20))
    assert not active_children()


def test_workers_outlive_the_signals_that_schedulers_send_to_a_whole_job(photos):
    steps = make(photos, config=MODES[2]).iterate(0, 30)
    next(steps)
    workers = [process.pid for process in active_children()]
    assert len(workers) == 2
    server = int(
        re.search(r"PPid:\t(\d+)", Path(f"/proc/{workers[0]}/status").read_text()).group(1)
    )
    assert server != os.getpid()
    for pid in (*workers, server):
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT):
            os.kill(pid, number)
    assert len(list(steps)) == 29


def test_closing_early_leaves_nothing_behind(photos):
    for config in MODES[1:]:
        list(make(photos, config=config).iterate(0, 2))  # what is opened once is open now
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            steps = make(photos, config=config).iterate(0, 1000)
            next(steps)
            steps.close()
        gc.collect()
        assert not active_children()
        assert len(os.listdir("/proc/self/fd")) <= before


def test_more_workers_than_cores_are_told_by_the_run_and_not_by_torch(photos, monkeypatch, recwarn):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
    assert len(list(make(photos, config=MODES[2]).iterate(0, 2))) == 2
    assert [str(warning.message) for warning in recwarn] == []


def test_memory_does_not_grow(photos):
    footprint = []
    ours = tracemalloc.Filter(True, "*/seer/*", all_frames=True)  # threads of earlier tests live on
    tracemalloc.start(8)
    for step, _ in enumerate(make(photos).iterate(0, 71)):
        if step in (20, 45, 70):
            gc.collect()
            traces = tracemalloc.take_snapshot().filter_traces([ours]).traces
            footprint.append(sum(trace.size for trace in traces))
    tracemalloc.stop()
    # A leaked object a step would be more, in both halves; what is made but once is in one.
    assert np.diff(footprint).min() < 25 * 200  # bytes


def test_worker_memory_and_descriptors_do_not_grow(photos):
    steps = make(photos, config=LoaderConfig(workers=1)).iterate(0, 500)
    footprint = []
    for step, _ in enumerate(steps):
        if step in (100, 490):
            (worker,) = active_children()
            pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
            footprint.append(
                (pages, len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{worker.pid}/fd")))
            )
    (pages, *files), (pages_later, *files_later) = footprint
    assert pages_later - pages < 1000  # 4 MB over 390 steps
    # Fewer may be open later: of what an earlier test left.
    assert all(later - before <= 12 for before, later in zip(files, files_later, strict=True))


def hold_open(manifest, pipe) -> None:
    """Tells the workers' numbers, and stays."""
    leave_open(manifest)
    pipe.send([process.pid for process in active_children()])
    time.sleep(600)


def test_workers_end_with_a_killed_trainer(photos):
    context = get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    trainer = context.Process(target=hold_open, args=(photos, theirs))
    trainer.start()
    workers = ours.recv()
    assert len(workers) == 2
    trainer.kill()
    trainer.join()
    for _ in range(600):  # a minute; they take a fraction of a second
        if not any(Path(f"/proc/{pid}").exists() for pid in workers):
            return
        time.sleep(0.1)
    pytest.fail("the workers live on")


def test_an_interrupted_trainer_ends(photos):
    program = (
        "from tests.data.test_loader import *; from seer.data.storage.index import Manifest\n"
        "if __name__ == '__main__':\n"
        f"    steps = make(Manifest.load({str(photos.directory)!r}), config=MODES[2]).iterate(0, 10**6); next(steps)\n"
        "    raise KeyboardInterrupt\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGINT


def leave_open(manifest) -> None:
    global left_open
    left_open = make(manifest, config=MODES[2]).iterate(0, 10**6)
    next(left_open)


def test_a_rank_that_ends_in_mid_stream_ends(photos):
    rank = get_context("forkserver").Process(target=leave_open, args=(photos,))
    rank.start()
    rank.join(60)
    code = rank.exitcode
    rank.kill()
    assert code == 0


def test_the_trainers_random_numbers_are_untouched(photos):
    for config in MODES:
        before = torch.get_rng_state()
        list(make(photos, config=config).iterate(0, 2))
        assert torch.equal(torch.get_rng_state(), before)


def test_waiting_is_measured(photos):
    class Slow(MultiCrop):
        def plan(self, shapes, epochs, ids):
            time.sleep(0.02)
            return super().plan(shapes, epochs, ids)

    loader = make(photos, Slow(VIEWS, seed=0))
    for _ in loader.iterate(0, 3):
        assert loader.wait_seconds >= 0.02


def test_the_task_can_be_sent_to_a_worker(photos):
    task = pickle.loads(pickle.dumps(make(photos).task))
    assert task(3)[0].index.tolist() == make(photos).order.ids(3 * BATCH, BATCH).tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"world_size": 4}, "batch_size=6 is no multiple of the 4 processes"),
        ({"config": LoaderConfig(mode="proceses")}, r"did you mean 'processes'\?"),
        ({"config": LoaderConfig(workers=-1)}, r"loader\.workers: -1 is not"),
        ({"config": LoaderConfig(prefetch=0)}, r"loader\.prefetch: 0 is not"),
    ],
)
def test_wrong_options(photos, options, words):
    with pytest.raises(InputError, match=words):
        make(photos, **options)


@pytest.mark.parametrize("device", [False, True], ids=["workers", "device"])
def test_the_parts_of_the_work_are_timed(shards, device):
    crops = MultiCrop({"large": View(size=16, count=2)}, seed=0, finish=not device)
    config = LoaderConfig(workers=0, device_augment=device, device_decode=device)
    loader = Loader(shards, Order(shards.sizes, 0, 8, 16), crops, batch_size=8, config=config)
    began = time.perf_counter()
    list(loader.iterate(0, 1))
    parts = {"read", "decode", "finish"} | (set() if device else {"crop", "augment"})
    assert loader.work_seconds.keys() == parts
    assert min(loader.work_seconds.values()) >= 0
    assert 0 < sum(loader.work_seconds.values()) <= time.perf_counter() - began
