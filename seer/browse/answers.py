"""What the page asks for: an address and its values in, JSON or bytes out. Images have numbers, and no
path is ever taken.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from torch import Tensor

from seer import __version__
from seer.browse.grouping import Grouping, majority
from seer.browse.inquiry import PendingError, Study
from seer.browse.thumbnails import SIDES, Thumbnails
from seer.data.decoding.decode import DamagedImage, decode
from seer.data.folders import readable
from seer.errors import InputError, printable
from seer.report import html
from seer.templates import template

MOST = 500  # images in an answer
MOST_GROUPS = 100
FEW = 10  # images in a set of near-duplicates
EXAMPLES = 12  # images of a group in a list of groups
LONGEST_NAME = 1_000  # characters
LEAST = ("0.9999", "0.999", "0.99", "0.98", "0.95", "0.9")  # cosines of near-duplicates
HERE = Path(__file__).parent
FILES = {
    "/page.js": ("page.js", "text/javascript"),
    "/map.js": ("map.js", "text/javascript"),
}
JSON = "application/json"
Values = Mapping[str, str]


class RefusedError(Exception):
    """A request that is not answered: why, and with which status."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Answer:
    content: bytes
    kind: str
    lasting: bool = False  # whether a browser may keep it


class Answers:
    """The answers about one collection. Safe to share between threads."""

    def __init__(self, study: Study):
        self.study = study
        self.collection = study.collection
        self.thumbnails = Thumbnails(study.collection)
        self._backbone = Lock()
        self._routes: dict[str, Callable[[Values], Any]] = {
            "/api/about": self._about,
            "/api/images": self._images,
            "/api/find": self._find,
            "/api/nearest": self._nearest,
            "/api/groups": self._groups,
            "/api/group": self._group,
            "/api/limit": self._limit,
            "/api/outliers": self._outliers,
        }
        self._texts = {path: (HERE / name).read_bytes() for path, (name, _) in FILES.items()}
        style = template(Path(html.__file__).parent, "style.html.j2").render()
        style += template(HERE, "style.html.j2").render()
        self._style = style.encode()
        self._page = template(HERE, "page.html.j2").render(self._words()).encode()

    def get(self, path: str, values: Values) -> Answer:
        """The answer to a GET. Raises `RefusedError`."""
        if path == "/":
            return Answer(self._page, "text/html; charset=utf-8")
        if path == "/style.css":
            return Answer(self._style, "text/css; charset=utf-8")
        if path in self._texts:
            return Answer(self._texts[path], f"{FILES[path][1]}; charset=utf-8")
        if path.removeprefix("/") in SIDES:
            side = SIDES[path.removeprefix("/")]
            return Answer(self.thumbnails.jpeg(self._row(values), side), "image/jpeg", True)
        if path == "/api/points":
            return Answer(self.study.points.astype("<f4").tobytes(), "application/octet-stream")
        try:
            if path == "/api/members":
                members = self._grouping(values).members.astype("<i4")
                return Answer(members.tobytes(), "application/octet-stream")
            if path not in self._routes:
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing at this address")
            return as_json(self._routes[path](values))
        except PendingError as pending:
            return as_json({"pending": str(pending)})

    def upload(self, content: bytes, values: Values) -> Answer:
        """The images nearest to an encoded one that was sent. Raises `RefusedError`."""
        try:
            image = decode(content)
        except DamagedImage as error:
            reason = f"this is no image that can be read ({error.reason})"
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, reason) from None
        try:
            with self._backbone:
                features = self.collection.features_of(image)
        except InputError as error:
            raise RefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from None
        return as_json({"images": self._near(features[0], _number(values, "count", 48, MOST))})

    def _words(self) -> dict[str, Any]:
        collection = self.collection
        return {
            "version": __version__,
            "model": collection.model.label,
            "data": readable(collection.pile.place),
            "images": f"{len(collection):,}",
            "dimensions": f"{collection.features.shape[1]:,}",
            "size": collection.model.size,
            "left_out": collection.left_out,
        }

    def _about(self, values: Values) -> dict[str, Any]:
        study = self.study
        return {
            "images": len(self.collection),
            "kinds": study.kinds,
            "no_prototypes": study.no_prototypes,
            "map": study.map_note,
            "doing": study.doing,
        }

    def _images(self, values: Values) -> dict[str, Any]:
        words = values.get("numbers", "").split(",")[:MOST]
        return {"images": [self._shown(self._row({"image": word})) for word in words if word]}

    def _find(self, values: Values) -> dict[str, Any]:
        """The images whose name or class has a text in it."""
        text = values.get("text", "").casefold()
        count = len(self.collection)
        rows = [row for row in range(count) if text in self._text(row).casefold()]
        return self._some(np.array(rows, np.int64), values)

    def _nearest(self, values: Values) -> dict[str, Any]:
        row = self._row(values)
        count = _number(values, "count", 48, MOST)
        near = self._near(self.collection.features[row], count + 1)
        others = [image for image in near if image["number"] != row][:count]
        return {"query": self._shown(row), "images": others}

    def _groups(self, values: Values) -> dict[str, Any]:
        grouping = self._grouping(values)
        first = _number(values, "from", 0, 2**40)
        last = first + _number(values, "count", 20, MOST_GROUPS)
        groups = grouping.by_size[first:last].tolist()
        return {
            "title": grouping.title,
            "count": grouping.count,
            "empty": grouping.empty,
            "filled": len(grouping.by_size),
            "images": int(grouping.sizes.sum()),
            "groups": [self._described(grouping, group, EXAMPLES) for group in groups],
        }

    def _group(self, values: Values) -> dict[str, Any]:
        grouping = self._grouping(values)
        group = _number(values, "group", -1, grouping.count - 1)
        if group < 0:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such group")
        described = self._described(grouping, group, 0)
        return {**described, **self._some(grouping.rows(group), values)}

    def _limit(self, values: Values) -> dict[str, Any]:
        """The loosest limit of near-duplicates at which no set of them has very many images."""
        most = max(FEW, len(self.collection) // 50)
        usual = LEAST[0]
        for least in LEAST:
            if self.study.grouping("duplicates", float(least)).sizes.max(initial=0) > most:
                break
            usual = least
        return {"least": usual}

    def _outliers(self, values: Values) -> dict[str, Any]:
        loneliness = self.study.loneliness
        answer = self._some(np.argsort(-loneliness, kind="stable"), values)
        for image in answer["images"]:
            image["distance"] = _figure(loneliness[image["number"]])
        return answer

    def _some(self, rows: np.ndarray, values: Values) -> dict[str, Any]:
        first = _number(values, "from", 0, 2**40)
        last = first + _number(values, "count", 60, MOST)
        images = [self._shown(row) for row in rows[first:last].tolist()]
        return {"total": len(rows), "images": images}

    def _described(self, grouping: Grouping, group: int, examples: int) -> dict[str, Any]:
        rows = grouping.rows(group)
        described: dict[str, Any] = {
            "group": group,
            "name": _short(grouping.name(group)),
            "size": len(rows),
            "images": [self._shown(row) for row in rows[:examples].tolist()],
        }
        mostly = majority(self.collection.labels[rows])
        if mostly and grouping.title != "class":
            label, share = mostly
            described["mostly"] = [_short(self.collection.classes[label]), share]
        return described

    def _near(self, query: Tensor, count: int) -> list[dict[str, Any]]:
        near, rows = self.study.index.nearest(query, count)
        pairs = zip(near.tolist(), rows.tolist(), strict=True)
        return [{**self._shown(row), "cosine": _figure(cosine)} for cosine, row in pairs]

    def _shown(self, row: int) -> dict[str, Any]:
        label = self.collection.labels[row]
        name = _short(self.collection.name(row))
        return {
            "number": row,
            "name": name,
            "label": _short(self.collection.classes[label]) if label >= 0 else "",
        }

    def _text(self, row: int) -> str:
        label = self.collection.labels[row]
        name = self.collection.name(row)
        return f"{name}\n{self.collection.classes[label]}" if label >= 0 else name

    def _grouping(self, values: Values) -> Grouping:
        kind = values.get("kind", "")
        least = values.get("least", "0.99")
        if least not in LEAST:
            raise RefusedError(HTTPStatus.BAD_REQUEST, "no such limit of near-duplicates")
        try:
            return self.study.grouping(kind, float(least))
        except KeyError:
            raise RefusedError(HTTPStatus.NOT_FOUND, "there are no such groups") from None

    def _row(self, values: Values) -> int:
        row = _number(values, "image", -1, 2**40)
        if not 0 <= row < len(self.collection):
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no image of this number")
        return row


def as_json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode(), JSON)


def _number(values: Values, name: str, default: int, most: int) -> int:
    """A whole number out of a request, `most` if it is larger."""
    text = values.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 15):
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"{name} is a whole number")
    return min(int(text), most)


def _figure(value: float) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _short(name: str) -> str:
    """A name as it can be shown: control characters, which would turn around what follows, spelt out."""
    return printable(name[:LONGEST_NAME])
