"""Pictures on the device: nvJPEG against libjpeg, the batch executor against the workers' kernel.

What nvJPEG shows differs from what libjpeg shows where colour has half the resolution: libjpeg
interpolates it, nvJPEG repeats it. `simplejpeg` can be told to repeat it, too, which measures the
difference without a GPU: a mean of 0.4 levels of 255 over crops, more at coloured edges. The bound
is a mean of 1.5 levels over all crops, and for each image one of 6.
"""

import io
from functools import cache

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from seer.data.crops.backdrops import Backdrops, lay_behind
from seer.data.crops.device import cut, encode, size_of_plain
from seer.data.crops.draws import NO_NOISE
from seer.data.crops.multicrop import MultiCrop, View
from seer.data.decoding.decode import DamagedImage, decode
from tests.kit.pictures import photograph

VIEWS = {
    "large": View(size=96, count=2, blur=0.5, solarize=0.2),
    "small": View(size=48, count=2, scale=[0.05, 0.3]),
}
ROUND = 100  # images at a time
NEAR = 2  # levels: between decoders that agree, from resizing alone


def images_for(device: torch.device) -> int:
    return 1000 if device.type == "cuda" else 40


@cache
def pieces(count: int) -> list[bytes]:
    """JPEGs of pieces of photographs: every quality, colour at full and at half resolution, some
    progressive.
    """
    sources = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        source = sources[number % 2]
        height, width = random.integers(100, 400, 2)
        top = random.integers(0, source.shape[0] - height + 1)
        left = random.integers(0, source.shape[1] - width + 1)
        piece = Image.fromarray(source[top : top + height, left : left + width])
        file = io.BytesIO()
        quality, subsampling = int(random.integers(60, 98)), int(random.choice([0, 2]))
        piece.save(
            file, "JPEG", quality=quality, subsampling=subsampling, progressive=number % 10 == 9
        )
        files.append(file.getvalue())
    return files


def differences(device: torch.device, files: list[bytes], decoder) -> np.ndarray:
    """The mean difference of each image's crops, in levels, between the device's and those that a
    worker cuts of what `decoder` shows.
    """
    crops = MultiCrop(VIEWS, seed=1, finish=False)
    means = []
    for start in range(0, len(files), ROUND):
        part = files[start : start + ROUND]
        ids = np.arange(start, start + len(part))
        epochs = np.zeros(len(part), np.int64)
        ours = cut(encode(part, crops, epochs, ids), crops, device)
        theirs = crops([decoder(data) for data in part], epochs, ids)
        of_resolution = []
        for mine, expected in zip(ours.crops, theirs.crops, strict=True):
            assert mine.device.type == device.type
            assert mine.shape == expected.shape
            levels = (mine.cpu().float() - expected.float()).abs()
            of_resolution.append(levels.mean((0, 2, 3, 4)))
        means.append(torch.stack(of_resolution).mean(0))
    return torch.cat(means).numpy()


def test_decoded_and_cut_on_the_device(device, measured):
    files = pieces(images_for(device))
    assert all(size_of_plain(data) for data in files)
    means = differences(device, files, decode)
    measured("mean", means.mean())
    measured("99 %", np.quantile(means, 0.99))
    measured("worst", means.max())
    if device.type == "cpu":
        assert means.max() < 0.5  # libjpeg on both sides
    assert means.mean() < 1.5
    assert means.max() < 6


def test_the_bound_is_that_of_repeated_colour(measured):
    """libjpeg, made to repeat colour instead of interpolating it, stays within the bound, and is
    not taken for the same.
    """
    means = differences(
        torch.device("cpu"),
        pieces(40),
        lambda data: simplejpeg.decode_jpeg(data, fastupsample=True),
    )
    assert 0.1 < means.mean() < 1.5
    assert means.max() < 6


def saved(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def test_every_kind_of_jpeg(device):
    """Grey and progressive ones are decoded on the device; turned ones and CMYK by the worker."""
    image = Image.fromarray(photograph(1, 120, 150))
    turned = Image.Exif()
    turned[0x0112] = 6
    kinds = {
        "plain": saved(image),
        "grey": saved(image.convert("L")),
        "progressive": saved(image, progressive=True),
        "half colour": saved(image, subsampling=2),
        "odd": saved(image.crop((0, 0, 149, 117)), subsampling=2),
        "turned": saved(image, exif=turned),
        "cmyk": saved(image.convert("CMYK")),
    }
    by_worker = {name for name, data in kinds.items() if size_of_plain(data) is None}
    assert by_worker == {"turned", "cmyk"}
    crops = MultiCrop(VIEWS, seed=2, finish=False)
    ids = np.arange(len(kinds))
    epochs = np.zeros(len(kinds), np.int64)
    sent = [decode(data) if name in by_worker else data for name, data in kinds.items()]
    ours = cut(encode(sent, crops, epochs, ids), crops, device)
    theirs = crops([decode(data) for data in kinds.values()], epochs, ids)
    for mine, expected in zip(ours.crops, theirs.crops, strict=True):
        levels = (mine.cpu().float() - expected.float()).abs()
        for name, mean in zip(kinds, levels.mean((0, 2, 3, 4)).tolist(), strict=True):
            assert mean < 3, name
            assert mean < 0.5 or name not in by_worker, name


def test_what_is_damaged_is_told(device):
    """A truncated one never gets there. Of one whose tables are gone the device says so, and goes
    on with the next.
    """
    whole = saved(Image.fromarray(photograph(3, 120, 150)))
    assert size_of_plain(whole[: len(whole) // 2]) is None
    with pytest.raises(DamagedImage):
        decode(whole[: len(whole) // 2])
    crops = MultiCrop(VIEWS, seed=2, finish=False)
    one = np.zeros(1, np.int64)
    sent = encode([whole], crops, one, one)
    emptied = sent.images[0].clone()
    emptied[20:-20] = 0
    for _ in range(2):
        with pytest.raises(RuntimeError):
            cut(type(sent)([emptied], sent.boxes, sent.looks, sent.index), crops, device)
        assert cut(sent, crops, device).crops[0].float().std() > 1


def test_looks_of_the_device_are_those_of_the_workers(device, measured):
    """The same crops, altered by the worker's kernel and by the batch executor: to 0.05 of a level
    (a GPU's sums are in another order than a CPU's, which agrees to 0.01).
    """
    count = images_for(device)
    images = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in pieces(count)]
    std = np.array([0.229, 0.224, 0.225])
    worst = 0.0
    for start in range(0, count, ROUND):
        part = images[start : start + ROUND]
        ids = np.arange(start, start + len(part))
        epochs = np.zeros(len(part), np.int64)
        finished, raw = (MultiCrop(VIEWS, seed=4, finish=finish) for finish in (True, False))
        theirs = finished.finish(finished(part, epochs, ids), "cpu")
        ours = raw.finish(raw(part, epochs, ids), device)
        assert torch.equal(ours.index.cpu(), theirs.index)
        for mine, expected in zip(ours.crops, theirs.crops, strict=True):
            assert mine.device.type == device.type
            assert mine.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
            worst = max(worst, float((mine.cpu() - expected).abs().max() * 255 * std.max()))
    measured("levels", worst)
    assert worst < 0.05


def test_what_stands_behind_objects_is_the_same_to_the_bit(device):
    random = np.random.default_rng(0)
    crops = torch.from_numpy(random.integers(0, 256, (9, 40, 40, 3), dtype=np.uint8))
    masks = random.integers(0, 256, (4, 40, 40), dtype=np.uint8)
    colours = random.integers(0, 256, (4, 3), dtype=np.uint8)
    noise = np.array([NO_NOISE, 7, 2**32 - 1, NO_NOISE])
    backdrops = Backdrops(np.array([1, 2, 5, 8]), masks, colours, noise)
    on_device = crops.to(device, copy=True)
    lay_behind(on_device, backdrops)
    lay_behind(crops, backdrops)
    assert torch.equal(on_device.cpu(), crops)
