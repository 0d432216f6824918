"""The page in a real browser."""

from collections.abc import Iterator

import numpy as np
import pytest

from seer.browse.web_server import Server
from tests.browse.conftest import HOSTILE
from tests.kit.browser import Browser, browser, needs_chromium

pytestmark = needs_chromium

DROP = """(async () => {
  const file = new File([await (await fetch("/image?image=3")).blob()], "dropped.jpg");
  const transfer = new DataTransfer();
  transfer.items.add(file);
  for (const kind of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true}));
})()"""
NAMES = '[...document.querySelectorAll("#view .tiles .tile")].map((tile) => tile.title)'
TEXT = 'document.querySelector("#view").innerText'
SETTLED = 'document.querySelectorAll("#view .tile").length'


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
def page(chromium: Browser, server: Server) -> Iterator[Browser]:
    """It must have nothing to complain of in the end. It is left before the server goes."""
    chromium.resize(1200)
    chromium.url = server.url  # type: ignore[attr-defined]
    chromium.goto("about:blank")
    chromium.complaints.clear()
    yield chromium
    assert not chromium.complaints
    assert chromium.evaluate("document.title") != "1"  # what the hostile names would make it
    chromium.goto("about:blank")


def opened(page: Browser, view: str, until: str = SETTLED) -> None:
    page.goto("about:blank")
    page.goto(f"{page.url}#{view}")  # type: ignore[attr-defined]
    page.wait(until)


def test_an_image_leads_to_its_neighbours_and_these_to_theirs(page, study):
    opened(page, "near=4")
    _, rows = study.index.nearest(study.collection.features[4], 19)
    expected = [study.collection.name(row).replace("\u202e", "\\u202e") for row in rows.tolist()]
    assert page.evaluate(NAMES) == [name for name in expected if name != expected[0]]
    page.evaluate('document.querySelector(".tile").click()')
    page.wait(f"location.hash === '#near={rows[1]}'")
    page.wait(f"document.querySelector('.query h2')?.textContent === {expected[1]!r}")
    page.evaluate("history.back()")
    page.wait(f"document.querySelector('.query h2')?.textContent === {expected[0]!r}")


def test_names_and_classes_are_found_and_shown_as_texts(page):
    opened(page, "near=0")
    page.evaluate('$("text").value = "OnError"; $("find").requestSubmit()')
    page.wait("location.hash.startsWith('#find')")
    page.wait(f"{SETTLED} === 7")
    assert f"brick/{HOSTILE}.png".replace("\u202e", "\\u202e") in page.evaluate(NAMES)
    assert page.evaluate('document.querySelectorAll("#view [onerror]").length') == 0
    opened(page, "classes", "document.querySelectorAll('.group').length === 3")
    assert HOSTILE.replace("\u202e", "\\u202e") in page.evaluate(TEXT)


def test_prototypes_say_how_many_are_empty_and_show_what_they_collect(page, study):
    opened(page, "prototypes")
    grouping = study.grouping("prototypes")
    text = page.evaluate(TEXT)
    assert (
        f"Of 40 prototypes {len(grouping.by_size)} collect images and {grouping.empty} are empty"
        in text
    )
    assert "fewer images than prototypes" in text
    largest = grouping.by_size[0]
    page.evaluate('document.querySelector(".group h3 a").click()')
    page.wait(f"location.hash === '#prototypes={largest}'")
    page.wait(f"document.querySelector('#view h2')?.textContent === 'prototype {largest}'")
    assert len(page.evaluate(NAMES)) == grouping.sizes[largest]


def test_near_duplicates_outliers_and_clusters_are_there(page):
    opened(page, "duplicates")
    page.evaluate(
        "(() => { const s = document.querySelector('#view select'); s.value = '0.9999'; s.onchange(); })()"
    )
    page.wait(f"{NAMES}.includes('slate/copy.png')")
    opened(page, "outliers", f"{SETTLED} === 19")
    opened(page, "clusters")
    assert "1 cluster by k-means" in page.evaluate(TEXT)


def test_an_image_on_the_map_is_pointed_at_and_opened(page, study):
    opened(page, "map", "map.points.length === 38 && map.visible === 19")
    assert page.evaluate("[...$('kind').options].map((option) => option.value)") == [
        "", "classes", "prototypes", "clusters",
    ]  # fmt: skip
    row = int((study.points**2).sum(1).argmax())  # far from the others
    place = f"(() => {{ const [x, y] = map.locate({row}); const box = $('canvas').getBoundingClientRect(); "
    x, y = page.evaluate(place + "return [box.left + x, box.top + y]; })()")
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    page.wait(f"$('tip').dataset.image === '{row}' && $('tip').style.opacity === '1'")
    before = page.evaluate(f"map.locate({row}).join()")
    wheel = {"x": x, "y": y, "deltaX": 0, "deltaY": -200}
    page.call("Input.dispatchMouseEvent", type="mouseWheel", **wheel)
    page.wait("map.zoom > 1.5")
    after = page.evaluate(f"map.locate({row}).join()")
    for was, now in zip(before.split(","), after.split(","), strict=True):
        assert abs(float(was) - float(now)) < 1.5  # what is under the pointer stays
    loaded = "[...map.pictures.values()].every((picture) => picture.complete)"
    page.wait(f"map.pictures.size && {loaded} && !map.asked")
    pointed = page.evaluate(f"map.at(...map.locate({row}))")  # the picture on top
    page.click(x, y)
    page.wait(f"location.hash === '#near={pointed}'")
    assert np.abs(study.points[pointed] - study.points[row]).max() < 0.3


def test_a_dropped_image_is_searched_and_one_that_is_none_is_refused(page):
    opened(page, "near=0")
    page.evaluate(DROP)
    page.wait("location.hash === '#sent'")
    page.wait(
        f"{SETTLED} === 19 && document.querySelector('.query h2').textContent === 'dropped.jpg'"
    )
    assert page.evaluate("document.querySelector('.query img').src").startswith("blob:")
    page.evaluate("send(new File(['<svg onload=alert(1)>'], 'evil.png'))")
    page.wait("document.querySelector('.wrong')")
    assert "no image that can be read" in page.evaluate(TEXT)
    assert all("422" in complaint for complaint in page.complaints)
    page.complaints.clear()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "view", ["near=1", "map", "prototypes", "classes", "duplicates", "outliers"]
)
def test_nothing_is_wider_than_a_narrow_screen(page, view, scheme):
    page.resize(400)
    page.colours(scheme)
    until = "map.visible === 19" if view == "map" else SETTLED
    opened(page, view, until)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(19, 20, 22)") == (scheme == "dark")
    page.colours("light")


def test_by_another_name_there_is_nothing(page):
    url = page.url.replace("127.0.0.1", "rebound.localhost")  # which leads to the loopback
    page.goto(url)
    assert "not known by that name" in page.evaluate("document.body.innerText")
    page.complaints.clear()
