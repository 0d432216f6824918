import gzip
import json
import random
import socket
import sys
from collections.abc import Callable
from urllib.parse import unquote

import fsspec
import numpy as np
import pytest

from seer.data.storage import store
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.data.storage.remote import FetchConfig
from seer.data.storage.store import NotThereError, Url, place, read_ranges
from seer.errors import InputError
from tests.kit.pictures import coloured_jpeg
from tests.kit.servers import Answer, Handler, be_impatient, files, s3_server, serve
from tests.kit.shards import write_shards

CONTENT = random.Random(1).randbytes(100_000)


@pytest.fixture
def server(tmp_path, monkeypatch):
    be_impatient(monkeypatch)
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_bytes(CONTENT)
    with serve(files(tmp_path)) as server:
        yield server


def test_addresses_join_as_paths_do():
    url = Url("s3://bucket/shards/") / "x.tar"
    assert url == "s3://bucket/shards/x.tar"
    assert (url.scheme, url.name, url.parent) == ("s3", "x.tar", "s3://bucket/shards")
    assert url.with_suffix(".index.parquet") == "s3://bucket/shards/x.index.parquet"
    assert isinstance(url.parent, Url)
    assert place("s3://bucket") == Url("s3://bucket")
    assert not isinstance(place("/a/b"), Url)


def test_bytes_arrive_whole_although_one_request_in_three_fails(server):
    server.rate, url = 0.33, Url(server.url) / "a/file"
    draw = random.Random(2)
    spans = [sorted(draw.sample(range(len(CONTENT) + 1), 2)) for _ in range(60)]
    server.stall = 0.7  # longer than a request may take
    assert read_ranges([(url, *span) for span in spans]) == [
        CONTENT[slice(*span)] for span in spans
    ]
    assert url.read_bytes(len(CONTENT)) == CONTENT
    assert url.size() == len(CONTENT)
    assert set(server.failed) == {"503", "429", "reset", "truncated", "stall"}
    assert read_ranges([]) == []
    assert read_ranges([(url, 5, 5)]) == [b""]


def test_what_is_not_there(server):
    assert not (Url(server.url) / "b").is_file()
    assert (Url(server.url) / "a/file").is_file()
    with pytest.raises(NotThereError, match=r"/b does not exist .*; check the address"):
        (Url(server.url) / "b").read_bytes(len(CONTENT))
    assert server.asked["GET", "/b"] == 2  # once by each


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "access denied .*403"),
        (401, "access denied"),
        (400, "cannot be read .*400"),
        (410, "cannot be read"),
    ],
)
def test_a_refusal_is_told_at_once(server, status, words):
    server.answer = lambda *_: (status, {}, b"no\nno")
    with pytest.raises(InputError, match=words) as raised:
        (Url(server.url) / "a/file").read_bytes(len(CONTENT))
    assert server.asked.total() == 1
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fault", ["503", "429", "reset", "truncated", "stall"])
def test_patience_ends(server, fault, monkeypatch):
    monkeypatch.setattr(store, "ATTEMPTS", 3)
    monkeypatch.setattr(store, "SECONDS", 0.1)
    server.rate, server.faults, server.stall = 1.0, [fault], 0.3
    with pytest.raises(
        InputError, match=r"cannot be read, after 3 attempts \(.+\); check network and server"
    ) as raised:
        read_ranges([(Url(server.url) / "a/file", 0, 1000)])
    # Aiohttp repeats a request by itself if the connection was an old one.
    assert server.asked.total() >= 3
    assert "\n" not in str(raised.value)


def test_a_short_body_that_claims_to_be_whole_is_noticed(server, monkeypatch):
    monkeypatch.setattr(store, "ATTEMPTS", 2)
    server.answer = lambda *_: (206, {}, b"1234")
    with pytest.raises(InputError, match=r"after 2 attempts \(4 of 1000 bytes\)"):
        read_ranges([(Url(server.url) / "a/file", 0, 1000)])


def test_a_server_without_ranges(server):
    server.answer = lambda *_: (200, {}, CONTENT)
    with pytest.raises(InputError, match="the server ignores byte ranges"):
        read_ranges([(Url(server.url) / "a/file", 10, 20)])
    assert server.asked.total() == 1


def test_a_body_without_end_is_not_read(server, monkeypatch):
    sent = []

    def endless(self):
        self.send_response(200 if "Range" not in self.headers else 206)
        self.end_headers()
        while True:
            sent.append(self.wfile.write(bytes(2**20)))

    monkeypatch.setattr(Handler, "do_GET", endless)
    url = Url(server.url) / "a/file"
    with pytest.raises(
        InputError, match="/a/file: larger than 1,000 bytes, which no such file is; replace it"
    ):
        url.read_bytes(1000)
    with pytest.raises(InputError, match="the server ignores byte ranges"):
        read_ranges([(url, 0, 1000)])
    assert len(sent) < 200  # MB, most of them in buffers of the connections


def test_a_body_that_unpacks_to_more_is_not_unpacked(server):
    packed = gzip.compress(bytes(2**26))
    server.answer = lambda *_: (200, {"Content-Encoding": "gzip"}, packed)
    with pytest.raises(InputError, match="larger than 1,000 bytes"):
        (Url(server.url) / "a/file").read_bytes(1000)


def test_nobody_listens(monkeypatch):
    be_impatient(monkeypatch)
    monkeypatch.setattr(store, "ATTEMPTS", 2)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match=r"after 2 attempts .*Cannot connect"):
            Url(f"http://127.0.0.1:{unused.getsockname()[1]}/x").read_bytes(len(CONTENT))


def test_the_trainers_random_numbers_are_untouched(server):
    server.rate, server.faults, before = 0.3, ["503"], random.getstate()
    for _ in range(5):
        (Url(server.url) / "a/file").read_bytes(len(CONTENT))
    assert server.failed
    assert random.getstate() == before


@pytest.mark.parametrize(
    ("url", "package", "extra"), [("s3://b/x", "s3fs", "s3"), ("gs://b/x", "gcsfs", "gcs")]
)
def test_a_missing_extra_is_named(url, package, extra, monkeypatch):
    store._server.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url[:2], raising=False)
    with pytest.raises(
        InputError,
        match=rf"needs another package \(.*{package}.*\); pip install 'seer-pretrain\[{extra}\]'",
    ):
        Manifest.load(url)


@pytest.mark.parametrize(
    ("url", "word"), [("htps://host/x", "did you mean 'https'"), ("ftp://host/x", "one of: ")]
)
def test_an_unknown_scheme(url, word):
    with pytest.raises(InputError, match=word):
        place(url)


@pytest.fixture
def s3(monkeypatch):
    be_impatient(monkeypatch)
    # Nothing stalls here, and the first request makes a TLS context.
    monkeypatch.setattr(store, "SECONDS", 10)
    with s3_server(monkeypatch) as server_and_upload:
        yield server_and_upload


def refusing(server, status: int, code: str, words: str) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{words}</Message></Error>".encode()
    server.answer = lambda *_: (status, {"Content-Type": "application/xml"}, body)


def test_shards_on_s3(tmp_path, s3, monkeypatch):
    server, upload = s3
    manifest = write_shards(tmp_path / "shards", [3, 2])
    url = upload(tmp_path / "shards", "bucket")
    assert Manifest.load(url).hash == Manifest.load(f"{url}/manifest.parquet").hash == manifest.hash
    assert Manifest.load(url).directory == url
    assert (Url(url) / "shard-000000.tar").size() == manifest.bytes[0]
    assert not (Url(url) / "shard-000009.tar").is_file()
    for missing in (f"{url}/deeper", "s3://nobucket/x"):
        with pytest.raises(
            InputError, match=r"manifest.parquet does not exist .*; if only tars are there, run"
        ) as raised:
            Manifest.load(missing)
        assert "\n" not in str(raised.value)
    server.rate, server.faults = 1, ["503"]
    monkeypatch.setattr(store, "ATTEMPTS", 2)
    with pytest.raises(InputError, match="after 2 attempts"):
        Manifest.load(url)


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "Access Denied"),
        (403, "InvalidAccessKeyId", "does not exist in our records"),
        (400, "ExpiredToken", "The provided token has expired"),
    ],
)
def test_s3_denies_access(s3, status, code, words):
    refusing(s3[0], status, code, words)
    with pytest.raises(
        InputError, match=rf"access denied \(.*{words}.*\); check AWS_ACCESS_KEY_ID"
    ) as raised:
        Manifest.load("s3://bucket/x")
    assert s3[0].asked.total() == 1
    assert "\n" not in str(raised.value)


def test_s3_without_credentials(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(
        InputError, match=r"access denied \(Unable to locate credentials\); check AWS_ACCESS_KEY_ID"
    ):
        Manifest.load("s3://bucket/x")


def google(root) -> Callable[[str, str, dict], Answer]:
    """What of Google's JSON API reading needs: an object's description, and its bytes."""
    below = files(root)

    def answer(method: str, path: str, headers: dict) -> Answer:
        path, _, query = unquote(path).partition("?")
        name = path.partition("/o/")[2]
        if "alt=media" in query:
            return below(method, f"/{name}", headers)
        status, _, body = below(method, f"/{name}", {})
        if status != 200 or "/b/bucket/o/" not in path:
            return 404, {}, b""
        about = {
            "name": name,
            "bucket": "bucket",
            "size": str(len(body)),
            "generation": "1",
            "kind": "storage#object",
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(about).encode()

    return answer


def test_shards_on_google_cloud_storage(tmp_path, monkeypatch):
    # Else gRPC is tried, which no test server speaks.
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    pytest.importorskip("gcsfs", reason="needs pip install gcsfs")
    be_impatient(monkeypatch)
    manifest = write_shards(tmp_path / "shards", [3, 2])
    with serve(google(tmp_path)) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        monkeypatch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        store._server.cache_clear()
        server.rate, server.faults = 0.15, ["503", "reset", "truncated"]
        found = Manifest.load("gs://bucket/shards")
        assert found.hash == manifest.hash
        ours = Reader(found, FetchConfig("ranges"))
        for ids in ([4, 0], [1, 3], [2]):
            assert ours.read(np.array(ids)) == [coloured_jpeg(i) for i in ids]
        assert server.failed
        server.rate = 0
        with pytest.raises(InputError, match=r"gs://bucket/none/manifest\.parquet does not exist"):
            Manifest.load("gs://bucket/none")
        server.answer = lambda *_: (403, {}, b'{"error": {"code": 403, "message": "no\\nno"}}')
        with pytest.raises(
            InputError, match=r"access denied .*check GOOGLE_APPLICATION_CREDENTIALS"
        ) as raised:
            Manifest.load("gs://bucket/shards")
        assert "\n" not in str(raised.value)
    store._server.cache_clear()
