"""Cutters that want more than the image: its map, or its boxes, from shards to batches."""

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from seer.data.crops.multicrop import CropBatch, CropPlan, MultiCrop, View
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage import index as format
from seer.data.storage.index import (
    INDEX_SCHEMA,
    Manifest,
    index_path,
    read_index,
    write_index,
    write_manifest,
)
from seer.data.storage.reader import Reader
from seer.errors import InputError
from tests.kit.pictures import photograph
from tests.kit.servers import files, serve

# Of no box here is a side a multiple of 64: no centre of a pixel falls between two of the map.
SIZE, BATCH, SAMPLES, SEED = 32, 6, 22, 5
VIEW = View(size=SIZE, count=1, scale=[0.2, 0.9], jitter=0, grey=0, blur=0)
WITHOUT_MAP, DAMAGED = {3, 12}, 7  # samples; what replaces the damaged one is the next
INLINE = LoaderConfig(workers=0)
PROCESSES = LoaderConfig(workers=2, mode="processes")
EVERYWHERE = pytest.mark.parametrize(
    ("source", "config"),
    [("disk", PROCESSES), ("ranges", PROCESSES), ("shards", INLINE)],
    ids=["disk", "ranges", "cache"],
    indirect=["source"],
)


def picture(i: int) -> np.ndarray:
    return photograph(i, 40 + i, 60 - i)


def map_of(i: int) -> np.ndarray:
    """`(H, W)` uint8: noise, in which every shift and every interpolation shows."""
    return np.random.default_rng(i).integers(0, 200, picture(i).shape[:2]).astype(np.uint8)


def boxes_of(i: int) -> list[list[int]]:
    """Left, top, right, bottom."""
    draw = np.random.default_rng(i).integers(1, 20, (1 + i % 3, 4))
    return np.concatenate([draw[:, :2], draw[:, :2] + draw[:, 2:]], 1).tolist()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Manifest:
    """Photographs in two shards, each with a map, boxes and a caption that nobody wants."""
    folder = tmp_path_factory.mktemp("served") / "shards"
    folder.mkdir()
    rows = []
    for number, samples in enumerate((range(10), range(10, SAMPLES))):
        path = folder / f"{number}.tar"
        index = []
        with tarfile.open(path, "w") as tar:
            for i in samples:
                index.append(add_sample(tar, i))
        write_index(index_path(path), index)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append({"shard": path.name, "samples": len(index), "sha256": digest})
        rows[-1]["bytes"] = path.stat().st_size
    write_manifest(folder, rows, {})
    return Manifest.load(folder)


def add_sample(tar: tarfile.TarFile, i: int) -> dict[str, Any]:
    image = b"no image" if i == DAMAGED else png(picture(i))
    members = {"png": image, "txt": bytes(20_000), "boxes.json": json.dumps(boxes_of(i)).encode()}
    if i not in WITHOUT_MAP:
        members["mask.png"] = png(map_of(i))
    places = []
    for suffix, data in members.items():
        info = tarfile.TarInfo(f"{i:03}.{suffix}")
        info.size = len(data)
        places.append({"suffix": suffix, "offset": tar.offset + 512, "size": len(data)})
        tar.addfile(info, io.BytesIO(data))
    height, width = picture(i).shape[:2]
    facts = {"key": f"{i:03}", "source": f"{i:03}.png", "format": "PNG", "sha256": bytes(32)}
    place = {"offset": places[0]["offset"], "size": places[0]["size"]}
    return {**facts, **place, "width": width, "height": height, "extras": places[1:]}


class MapCrop(MultiCrop):
    """One crop of each image, and the same crop of its map."""

    suffixes = ("mask.png",)

    def shapes(self, count):
        return [*super().shapes(count), (count, SIZE, SIZE)]

    def plan(self, shapes, epochs, ids):
        return MapPlan(self, shapes, epochs, ids)

    def finish(self, batch, device):
        *crops, maps = batch.crops
        views = super().finish(replace(batch, crops=tuple(crops)), device)
        return views.crops[0][0], maps[0], views.index


class MapPlan(CropPlan):
    """By the nearest neighbour; 255 where there is no map."""

    def cut(self, b, image, extras=()):
        super().cut(b, image)
        boxes, flips, *_ = self.work[0]
        (data,) = extras
        self.out[-1][b] = 255 if data is None else nearest(data, boxes[b], flips[b])


def nearest(data: bytes, box: list[int], flip: bool) -> np.ndarray:
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    top, left, height, width = box
    rows = top + ((np.arange(SIZE) + 0.5) * height / SIZE).astype(int)
    columns = left + ((np.arange(SIZE) + 0.5) * width / SIZE).astype(int)
    return pixels[rows][:, columns[::-1] if flip else columns]


@dataclass(frozen=True)
class BoxBatch(CropBatch):
    boxes: list[Tensor]


class BoxCrop(MultiCrop):
    """One crop of each image, and the image's boxes on it, in pixels of the crop."""

    suffixes = ("boxes.json", "nowhere.npy")

    def plan(self, shapes, epochs, ids):
        return BoxPlan(self, shapes, epochs, ids)

    def finish(self, batch, device):
        return super().finish(batch, device).crops[0][0], batch.boxes, batch.index


class BoxPlan(CropPlan):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.boxes = [torch.empty(0, 4)] * len(self.shapes)

    def cut(self, b, image, extras=()):
        super().cut(b, image)
        content, nowhere = extras
        assert nowhere is None
        boxes, flips, *_ = self.work[0]
        top, left, height, width = boxes[b]
        on_crop = torch.tensor(json.loads(content), dtype=torch.float64)
        on_crop = (on_crop - torch.tensor([left, top, left, top])) * SIZE
        on_crop /= torch.tensor([width, height, width, height])
        if flips[b]:
            on_crop[:, [0, 2]] = SIZE - on_crop[:, [2, 0]]
        self.boxes[b] = on_crop

    def batch(self):
        return BoxBatch(**vars(super().batch()), boxes=self.boxes)


def make(source: Manifest | Reader, cutter: MultiCrop, config: LoaderConfig, **ranks) -> Loader:
    order = Order(np.array([10, SAMPLES - 10]), seed=SEED, lanes=2, window=5)
    return Loader(source, order, cutter, batch_size=BATCH, config=config, **ranks)


def shown(ids: list[int]) -> list[int]:
    """The samples whose content stands for these."""
    return [DAMAGED + 1 if i == DAMAGED else i for i in ids]


def drawn(ids: list[int], step: int) -> list[tuple[list[int], bool]]:
    """Box and flip of each sample at a step."""
    shapes = [picture(i).shape[:2] for i in shown(ids)]
    epochs = (step * BATCH + np.arange(BATCH)) // SAMPLES
    plan = CropPlan(MultiCrop({"one": VIEW}, SEED), shapes, epochs, np.array(ids))
    boxes, flips, *_ = plan.work[0]
    return list(zip(boxes, flips, strict=True))


def by_pillow(pixels: np.ndarray, box: list[int], flip: bool, how: Image.Resampling) -> np.ndarray:
    top, left, height, width = box
    cropped = Image.fromarray(pixels).crop((left, top, left + width, top + height))
    resized = np.asarray(cropped.resize((SIZE, SIZE), how))
    return resized[:, ::-1] if flip else resized


@pytest.fixture
def source(request, shards, tmp_path, monkeypatch):
    """The data, as a reader of a folder or of a server."""
    monkeypatch.setenv("SEER_CACHE", str(tmp_path))
    if request.param == "disk":
        yield Reader(shards)
        return
    with serve(files(shards.directory.parent)) as server:
        yield Reader(Manifest.load(f"{server.url}/shards"), LoaderConfig(request.param))


@EVERYWHERE
def test_an_image_and_its_map_are_cut_alike(source, config):
    cutter = MapCrop({"one": VIEW}, SEED, finish=False, mean=[0, 0, 0], std=[1 / 255] * 3)
    loader = make(source, cutter, config)
    ids = loader.order.ids(0, 8 * BATCH).reshape(8, BATCH)
    for step, (images, maps, index) in enumerate(loader.iterate(0, 8)):
        assert index.tolist() == ids[step].tolist()
        for b, (box, flip) in enumerate(drawn(index.tolist(), step)):
            (i,) = shown([int(index[b])])
            image = by_pillow(picture(i), box, flip, Image.Resampling.BILINEAR)
            assert np.abs(images[b].permute(1, 2, 0).numpy() - image).max() <= 1
            expected = by_pillow(map_of(i), box, flip, Image.Resampling.NEAREST)
            missing = np.full_like(expected, 255)
            assert np.array_equal(maps[b].numpy(), missing if i in WITHOUT_MAP else expected)
    assert loader.replaced == (ids == DAMAGED).sum() > 0


@EVERYWHERE
def test_an_image_comes_with_its_boxes(source, config):
    loader = make(source, BoxCrop({"one": VIEW}, SEED), config)
    for step, (_, boxes, index) in enumerate(loader.iterate(2, 6), 2):
        for b, (box, flip) in enumerate(drawn(index.tolist(), step)):
            (i,) = shown([int(index[b])])
            top, left, height, width = box
            for made, (x0, y0, x1, y1) in zip(boxes[b].tolist(), boxes_of(i), strict=True):
                expected = [(x0 - left) / width, (y0 - top) / height]
                expected += [(x1 - left) / width, (y1 - top) / height]
                if flip:
                    expected[0], expected[2] = 1 - expected[2], 1 - expected[0]
                assert made == pytest.approx([SIZE * share for share in expected])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_global_batch(shards, world_size):
    cutter = MapCrop({"one": VIEW}, SEED, finish=False)
    config = INLINE
    whole = make(shards, cutter, config).iterate(0, 5)
    ranks = [
        make(shards, cutter, config, rank=rank, world_size=world_size).iterate(0, 5)
        for rank in range(world_size)
    ]
    for batch, shares in zip(whole, zip(*ranks, strict=True), strict=True):
        for part, parts in zip(batch, zip(*shares, strict=True), strict=True):
            assert torch.equal(part, torch.cat(parts))


def test_an_image_alone_is_cut_as_if_there_were_nothing_else(shards):
    plain = MultiCrop({"one": VIEW}, SEED, finish=False)
    with_maps = MapCrop({"one": VIEW}, SEED, finish=False)
    for views, (images, _, index) in zip(
        make(shards, plain, INLINE).iterate(0, 4),
        make(shards, with_maps, INLINE).iterate(0, 4),
        strict=True,
    ):
        assert torch.equal(views.crops[0][0], images)
        assert torch.equal(views.index, index)


def test_an_index_of_an_earlier_version_serves_images_alone(shards, tmp_path):
    folder = tmp_path / "shards"
    shutil.copytree(shards.directory, folder)
    schema = INDEX_SCHEMA.remove(INDEX_SCHEMA.get_field_index("extras"))
    for shard in shards.shards:
        path = index_path(folder / shard)
        format._write(path, read_index(path).drop_columns(["extras"]), schema)
    plain = MultiCrop({"one": VIEW}, SEED)
    for views, expected in zip(
        make(Manifest.load(folder), plain, INLINE).iterate(0, 4),
        make(shards, plain, INLINE).iterate(0, 4),
        strict=True,
    ):
        assert torch.equal(views.crops[0], expected.crops[0])
    with_maps = MapCrop({"one": VIEW}, SEED, finish=False)
    with pytest.raises(InputError, match="an earlier seer wrote it; run: seer shards index"):
        next(make(Manifest.load(folder), with_maps, INLINE).iterate(0, 1))
    with serve(files(tmp_path)) as server:
        remote = Manifest.load(f"{server.url}/shards")
        with pytest.raises(InputError, match=r"an earlier seer wrote it; .*upload the indices"):
            next(make(remote, with_maps, INLINE).iterate(0, 1))


def test_members_that_nobody_asks_for_cost_no_read(shards):
    """A request brings neighbours, but not across what is larger than the gap."""
    sizes: dict[str, list[int]] = {}

    def answer(method: str, path: str, headers: dict) -> tuple:
        status, more, body = files(shards.directory.parent)(method, path, headers)
        if method == "GET" and path.endswith(".tar"):
            sizes.setdefault(Path(path).name, []).append(len(body))
        return status, more, body

    with pytest.MonkeyPatch.context() as patch, serve(answer) as server:
        patch.setattr("seer.data.storage.remote.GAP", 5_000)
        reader = Reader(Manifest.load(f"{server.url}/shards"), LoaderConfig("ranges"))
        samples = reader.read_samples(np.arange(4), ("mask.png", "boxes.json"))
    assert [sample.extras[0] is None for sample in samples] == [False, False, False, True]
    rows = read_index(index_path(shards.directory / "0.tar")).slice(0, 4).to_pylist()
    wanted = [row["size"] + sum(e["size"] for e in row["extras"][1:]) for row in rows]
    # The end of one sample and the image of the next are neighbours.
    assert len(sizes["0.tar"]) == 5
    assert sum(wanted) <= sum(sizes["0.tar"]) < sum(wanted) + 20_000
