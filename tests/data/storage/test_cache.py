import hashlib
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from seer.data.storage import cache as module
from seer.data.storage.cache import Cache
from seer.data.storage.store import Url
from seer.errors import InputError
from tests.kit.servers import be_impatient, files, serve

SIZE = 50_000


def content(name: str) -> bytes:
    return hashlib.shake_256(name.encode()).digest(SIZE)


def digest(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


@pytest.fixture
def server(tmp_path, monkeypatch):
    be_impatient(monkeypatch)
    monkeypatch.setattr(module, "PIECE", 7_000)
    for name in "abcdef":
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / name).write_bytes(content(name))
    with serve(files(tmp_path / "store")) as server:
        yield server


def fetch(cache: Cache, server_url: str, name: str) -> bytes:
    """What a reader sees of a shard, which it opens if it is there and fetches if not."""
    descriptor = cache.open(digest(name), SIZE)
    if descriptor is None:
        descriptor = cache.fetch(Url(server_url) / name, digest(name), SIZE)
    with open(descriptor, "rb") as file:
        return os.pread(file.fileno(), SIZE + 1, 0)


def present(cache: Cache) -> set[str]:
    names = {digest(name): name for name in "abcdef"}
    return {names[path.stem] for path in cache.folder.glob("*.tar")}


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_a_shard_is_fetched_once_and_whole(tmp_path, server):
    server.rate, server.faults = 0.2, ["503", "truncated", "reset"]
    cache = Cache(tmp_path / "cache", 10 * SIZE)
    assert cache.open(digest("a"), SIZE) is None
    assert fetch(cache, server.url, "a") == content("a")
    server.asked.clear()
    assert fetch(Cache(tmp_path / "cache", 10 * SIZE), server.url, "a") == content("a")
    assert not server.asked
    assert server.failed
    assert sorted(p.name for p in cache.folder.iterdir()) == sorted([".lock", f"{digest('a')}.tar"])


def test_the_longest_unused_make_room_and_the_bound_holds(tmp_path, server):
    cache = Cache(tmp_path / "cache", 3 * SIZE)
    for name in "abca":
        fetch(cache, server.url, name)
        time.sleep(0.01)  # clocks of file systems are coarse
    held = cache.open(digest("b"), SIZE)
    time.sleep(0.01)
    for name, left in (
        ("d", "abd"),
        ("e", "bde"),
        ("f", "def"),
    ):  # c, a and b were used in this order
        fetch(cache, server.url, name)
        time.sleep(0.01)
        assert present(cache) == set(left)
        assert bytes_in(cache.folder) <= cache.limit
    assert os.pread(held, SIZE, 0) == content("b")  # evicted, and still readable by who holds it
    os.close(held)
    assert "b" not in present(cache)


def test_threads_and_more_shards_than_fit(tmp_path, server):
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    names = "abcdef" * 8
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda name: fetch(cache, server.url, name), names)) == [
            content(n) for n in names
        ]
    assert bytes_in(cache.folder) <= cache.limit


def test_what_vanishes_while_room_is_made_is_no_failure(tmp_path, server):
    cache = Cache(tmp_path / "cache", SIZE)
    for name in ("renamed.part", "evicted.tar"):
        (cache.folder / name).symlink_to("nowhere")  # listed, and not there when it is looked at
    assert fetch(cache, server.url, "a") == content("a")


def fetch_all(folder: Path, url: str, names: str, pipe) -> None:
    cache = Cache(folder, 4 * SIZE)
    right = [fetch(cache, url, name) == content(name) for name in names]
    pipe.send(right)


def start(function: Callable, *args):
    process = get_context("forkserver").Process(target=function, args=args)
    process.start()
    return process


def test_processes_share_what_one_of_them_fetches(tmp_path, server):
    server.answer = slowly(server.answer)
    ours, theirs = zip(
        *[get_context("forkserver").Pipe(duplex=False) for _ in range(4)], strict=True
    )
    processes = [start(fetch_all, tmp_path / "cache", server.url, "abc", pipe) for pipe in theirs]
    assert [pipe.recv() for pipe in ours] == [[True] * 3] * 4
    for process in processes:
        process.join()
    # In these processes, a shard is one piece.
    assert server.asked == {("GET", f"/{name}"): 1 for name in "abc"}


def slowly(answer):
    def slow(*request):
        time.sleep(0.02)
        return answer(*request)

    return slow


def test_a_fetch_that_is_killed_leaves_nothing_harmful(tmp_path, server):
    answer, folder = server.answer, tmp_path / "cache"
    server.answer = lambda method, path, headers: (time.sleep(30), answer(method, path, headers))[1]
    victim = start(fetch_all, folder, server.url, "a", None)
    part = folder / f"{digest('a')}.part"
    while not (
        part.exists() and part.stat().st_size == SIZE
    ):  # the space is taken before the first byte
        assert victim.is_alive()
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    server.answer = answer
    part.write_bytes(b"\xff" * (SIZE + 5))  # worse than what it left
    cache = Cache(folder, 2 * SIZE)
    assert fetch(cache, server.url, "b") == content("b")  # its space is taken
    assert not part.exists()
    part.write_bytes(b"\xff" * (SIZE + 5))
    assert fetch(cache, server.url, "a") == content("a")  # or its place
    assert present(cache) == {"a", "b"}
    assert not part.exists()


def test_a_shard_in_the_cache_of_another_length_is_fetched_again(tmp_path, server):
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    (cache.folder / f"{digest('a')}.tar").write_bytes(b"cut")
    assert fetch(cache, server.url, "a") == content("a")


def test_who_does_not_wait_is_told(tmp_path, server):
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    server.answer = slowly(server.answer)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(fetch, cache, server.url, "a")
        while not list(cache.folder.glob("*.part")):
            time.sleep(0.001)
        assert cache.fetch(Url(server.url) / "a", digest("a"), SIZE, wait=False) is None
        assert other.result() == content("a")


def test_a_replaced_shard_of_the_same_length(tmp_path, server):
    (tmp_path / "store/a").write_bytes(content("b"))
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    with pytest.raises(
        InputError, match=r"/a was replaced after it was indexed \(other SHA-256\); restore it"
    ):
        cache.fetch(Url(server.url) / "a", digest("a"), SIZE)
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_a_full_disk(tmp_path, server, monkeypatch):
    def write(*args):
        raise OSError(28, "No space left on device")

    cache = Cache(tmp_path / "cache", 2 * SIZE)
    monkeypatch.setattr(module, "_download", write)
    with pytest.raises(
        InputError,
        match=r"cache cannot be written \(No space left on device\); set loader.cache_dir",
    ):
        cache.fetch(Url(server.url) / "a", digest("a"), SIZE)
    assert [path.name for path in cache.folder.iterdir()] == [".lock"]


def test_a_name_that_is_no_digest_leads_nowhere(tmp_path, server):
    """A stranger's manifest has any text where a SHA-256 should be."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "data.tar").write_text("precious")
    (victim / "data.part").write_text("precious")
    cache = Cache(tmp_path / "cache", 2 * SIZE)
    for name in (str(victim / "data"), "../victim/data", "", digest("a").upper(), "x" * 64):
        for use in (
            lambda name: cache.open(name, SIZE),
            lambda name: cache.fetch(Url(server.url) / "a", name, SIZE),
        ):
            with pytest.raises(
                InputError,
                match=r"the cache keeps shards by their SHA-256: .* is not 64 hex digits",
            ):
                use(name)
    assert {path.name: path.read_text() for path in victim.iterdir()} == dict.fromkeys(
        ["data.tar", "data.part"], "precious"
    )
