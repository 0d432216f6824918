import http.client
import io
import json
import re
import signal
import socket
import subprocess
import sys
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from seer.browse import web_server
from seer.browse.collection import collect
from seer.browse.inquiry import PendingError, Study
from seer.browse.web_server import Server
from seer.cli import app
from seer.errors import InputError, InUseError
from seer.eval import pixels
from seer.eval.pile import open_pile
from seer.eval.probes.features import FeatureConfig
from tests.browse.conftest import HOSTILE, serving
from tests.eval.conftest import small_model
from tests.kit.pictures import encoded

Reply = tuple[int, dict[str, str], bytes]


def request(server: Server, path: str, method: str = "GET", body=None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, named)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), content


def asked(server: Server, path: str) -> dict:
    status, _, content = request(server, path)
    assert status == 200, content
    return json.loads(content)


def test_neighbours_are_the_nearest_by_cosine(server):
    collection = server.answers.collection
    features = torch.nn.functional.normalize(collection.features.double(), dim=1)
    for row in range(len(collection)):
        answer = asked(server, f"/api/nearest?image={row}&count=5")
        cosines = features @ features[row]
        cosines[row] = -2
        expected, _ = cosines.sort(descending=True)
        got = [image["cosine"] for image in answer["images"]]
        np.testing.assert_allclose(got, expected[:5], atol=1e-4)
        assert row not in [image["number"] for image in answer["images"]]
    assert answer["query"]["name"] == collection.name(row)


def test_an_uploaded_image_finds_itself(server, images):
    content = (images / "slate/003.png").read_bytes()
    status, _, body = request(server, "/api/nearest?count=3", "POST", content)
    first = json.loads(body)["images"][0]
    assert (status, first["name"], first["cosine"]) == (200, "slate/003.png", 1.0)


@pytest.mark.parametrize(
    ("body", "headers", "status", "reason"),
    [
        (b"no image at all", {}, 422, "no image that can be read"),
        (b"<svg onload=alert(1)>", {}, 422, "no image that can be read"),
        (b"", {}, 422, "empty"),
        (None, {"Content_Length": "99999999999"}, 413, "larger than 32 MB"),
        (None, {"Content_Length": "-1"}, 411, "how many bytes"),
        (None, {"Content_Length": "x"}, 411, "how many bytes"),
    ],
)
def test_an_upload_that_is_none_is_refused(server, body, headers, status, reason):
    got, _, content = request(server, "/api/nearest", "POST", body, **headers)
    assert got == status
    assert reason in json.loads(content)["error"]


def test_nothing_else_is_sent_or_done(server):
    image = encoded(0)
    assert request(server, "/api/images", "POST", image)[0] == 405
    for method in ("PUT", "DELETE", "OPTIONS", "PATCH"):
        assert request(server, "/", method)[0] == 501


@pytest.mark.parametrize(
    "path",
    [
        "/../../etc/passwd", "/thumb?image=../../x", "/thumb?image=-1", "/thumb?image=99", "/thumb",
        "/thumb?image=1e3", "/thumb?image=%00", "/page.js/../answers.py", "/answers.py", "/api/group?kind=x",
        "/api/group?kind=classes&group=99999999999", "/image?image=٣", "/api/groups?kind=duplicates&least=nan",
        "/api/nearest?image=1&count=-5", "/api/find?from=x", f"/api/find?text={'x' * 9000}", "//evil/thumb",
        "/thumb?" + "&".join(f"a{i}=1" for i in range(21)), "//[evil/thumb",
    ],
)  # fmt: skip
def test_images_have_numbers_and_no_path_is_taken(server, path):
    status, _, content = request(server, quote(path, safe="/?=&%"))
    if "99999999999" in path:
        assert json.loads(content)["size"] < 8  # the last class
    else:
        assert status in (400, 404, 414), content


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "localhost@evil.example"},
        {"Host": "192.168.0.7"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_strangers_page_gets_nothing(server, headers):
    for path, method in (("/api/about", "GET"), ("/api/nearest", "POST")):
        status, _, content = request(server, path, method, encoded(0), **headers)
        assert status == 403
        assert b"images" not in content


def test_this_machine_and_its_own_page_are_answered(server):
    port = server.server_port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "LOCALHOST:9000", "[::1]:80"):
        status, _, _ = request(server, "/api/about", Host=host, Origin=f"http://{host}")
        assert status == 200
    assert request(server, "/", Sec_Fetch_Site="cross-site")[0] == 200  # a link to it


def test_a_host_that_is_asked_for_is_reached_by_address_and_not_by_a_strangers_name(study):
    with serving(study, "0.0.0.0") as server:
        assert server.is_open
        assert request(server, "/api/about", Host="192.168.0.7:80")[0] == 200
        assert request(server, "/api/about", Host=socket.gethostname())[0] == 200
        assert request(server, "/api/about", Host="evil.example")[0] == 403


def test_nothing_of_a_page_may_come_from_elsewhere(server):
    for path in ("/", "/page.js", "/map.js", "/style.css", "/api/about"):
        _, headers, content = request(server, path)
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert not re.search(rb"https?://|//[a-z]+\.|innerHTML|document\.write|eval\(", content)


def test_hostile_names_are_texts(server, study):
    names = [study.collection.name(row) for row in range(len(study.collection))]
    row = names.index(f"brick/{HOSTILE}.png")
    _, headers, content = request(server, f"/api/images?numbers={row}")
    assert headers["Content-Type"] == "application/json"
    name = json.loads(content)["images"][0]["name"]
    assert name == f"brick/{HOSTILE}.png".replace("\u202e", "\\u202e")
    assert b"<img" not in request(server, "/")[2]
    found = asked(server, "/api/find?text=ONERROR")
    assert found["total"] == 7  # the class of six, and one more
    assert (
        asked(server, "/api/find?text=slate&from=5&count=2")["images"][1]["name"]
        == "slate/copy.png"
    )


def test_pictures_are_encoded_anew_and_small(server, images):
    status, headers, content = request(server, "/thumb?image=0")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(content)).size == (24, 24)
    (images / "slate/005.png").unlink()
    lost = request(server, f"/thumb?image={len(server.answers.collection) - 2}")
    assert (lost[0], lost[1]["Content-Type"]) == (200, "image/jpeg")


def test_groups_come_with_what_is_empty(server, study):
    answer = asked(server, "/api/groups?kind=prototypes&count=100")
    assert answer["count"] == 40
    assert answer["filled"] + answer["empty"] == 40
    assert sum(group["size"] for group in answer["groups"]) == answer["images"] == 19
    sizes = [group["size"] for group in answer["groups"]]
    assert sizes == sorted(sizes, reverse=True)
    largest = answer["groups"][0]["group"]
    whole = asked(server, f"/api/group?kind=prototypes&group={largest}")
    rows = [image["number"] for image in whole["images"]]
    assert sorted(rows) == np.flatnonzero(study.grouping("prototypes").members == largest).tolist()
    classes = asked(server, "/api/groups?kind=classes")
    assert sorted(group["size"] for group in classes["groups"]) == [6, 6, 7]


def test_a_copy_is_a_near_duplicate_and_is_not_alone(server):
    answer = asked(server, "/api/groups?kind=duplicates&least=0.9999")
    sets = [{image["name"] for image in group["images"]} for group in answer["groups"]]
    assert {"slate/001.png", "slate/copy.png"} in sets
    loneliest = asked(server, "/api/outliers?count=19")["images"]
    distances = [image["distance"] for image in loneliest]
    assert distances == sorted(distances, reverse=True)
    assert asked(server, "/api/limit")["least"] in (
        "0.9999",
        "0.999",
        "0.99",
        "0.98",
        "0.95",
        "0.9",
    )


def test_the_map_has_a_place_for_each_image(server):
    points = np.frombuffer(request(server, "/api/points")[2], "<f4").reshape(-1, 2)
    assert points.shape == (19, 2)
    assert np.isfinite(points).all()
    assert np.abs(points).max() == pytest.approx(1)
    members = np.frombuffer(request(server, "/api/members?kind=classes")[2], "<i4")
    assert np.bincount(members).tolist() == [6, 6, 7]


def test_what_is_not_known_yet_says_so(images, run):
    study = Study(collect("net", open_pile(images), FeatureConfig()), str(run[0]))
    with pytest.raises(PendingError):
        study.grouping("clusters")
    with serving(study) as server:
        assert asked(server, "/api/outliers") == {"pending": "beginning"}
        assert asked(server, "/api/nearest?image=0")["images"]


def test_a_model_without_prototypes_says_so_and_what_is_damaged_is_left_out(images, caplog):
    (images / "slate/broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    for _ in range(2):  # the second time from the cache
        collection = collect("net", open_pile(images), FeatureConfig())
        assert (len(collection), collection.left_out) == (19, 1)
        assert "slate/broken.jpg" not in map(collection.name, range(19))
    assert "broken.jpg" in caplog.text
    with serving(Study(collection, "timm:resnet18")) as server:
        assert "has no prototypes" in asked(server, "/api/about")["no_prototypes"]
        assert request(server, "/api/groups?kind=prototypes")[0] == 404


def test_features_are_those_of_the_evaluations_and_computed_once(images, monkeypatch):
    model = small_model()
    monkeypatch.setattr(pixels, "load_model", lambda spec: model)
    first = collect("net", open_pile(images), FeatureConfig())
    seen = model.backbone.seen
    again = collect("net", open_pile(images), FeatureConfig())
    assert model.backbone.seen == seen
    assert torch.equal(first.features, again.features)
    assert torch.equal(first.features_of(first.image(4))[0].half(), first.features[4].half())


def test_features_that_are_no_numbers_are_refused(images, monkeypatch):
    model = small_model()
    model.backbone.bn.weight.data[0] = float("nan")
    monkeypatch.setattr(pixels, "load_model", lambda spec: model)
    with pytest.raises(InputError, match="NaN or infinite"):
        collect("net", open_pile(images), FeatureConfig())


def test_a_port_in_use_is_one_line():
    with Server("127.0.0.1", 0) as first, pytest.raises(InUseError, match="cannot be used at"):
        Server("127.0.0.1", first.server_port)
    with pytest.raises(InputError, match=r"--host no\.such\.host\.invalid"):
        Server("no.such.host.invalid", 0)


def test_silence_does_not_hold_the_server_up(server, monkeypatch):
    monkeypatch.setattr(web_server.Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", server.server_port)) as quiet:
        quiet.sendall(
            b"POST /api/nearest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nxx"
        )
        assert asked(server, "/api/about")["images"] == 19
        quiet.settimeout(10)
        assert b"200" not in quiet.recv(4096)


@pytest.mark.slow
def test_the_command_serves_until_it_is_interrupted(images, tmp_path, monkeypatch):
    monkeypatch.setenv("SEER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Server, "serve_forever", lambda *_: pytest.fail("two serve at one port"))
    words = ["browse", "pixels:4", "--data", str(images), "--port"]
    command = [sys.executable, "-m", "seer", *words, "0"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipe) as process:
        line = process.stdout.readline()
        port = int(re.search(r"http://127.0.0.1:(\d+)/", line)[1])
        taken = CliRunner().invoke(app, [*words, str(port)])
        assert (taken.exception.exit_code, taken.output) == (2, "")
        assert "give another one" in str(taken.exception)
        assert len(str(taken.exception).splitlines()) == 1
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[0]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


STILL_AT_WORK = """
import threading, time
from seer import cli
from seer.browse import browsing

def serve(*_):
    import torch
    def work():
        values = torch.rand(300, 300)
        while True:
            values @ values
    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.3)

browsing.serve = serve
cli.main()
"""


def test_it_ends_well_while_something_is_still_being_found_out(images):
    """Native code aborts a process whose Python ends beneath its thread."""
    command = [sys.executable, "-c", STILL_AT_WORK, "browse", "pixels:4", "--data", str(images)]
    process = subprocess.run(command, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
