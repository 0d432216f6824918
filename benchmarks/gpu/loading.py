"""The loader with all cores of the machine, to a consumer that only waits: images/s of 2×224 + 4×96
finished by the workers, altered on the device, and decoded there as well.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from run import Options

from seer.data.crops.multicrop import DEFAULT_VIEWS, MultiCrop
from seer.data.loader import Loader, LoaderConfig
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.quickstart.pictures import write_quickstart
from shards.build import BuildOptions, build

MODES = {
    "finished by workers": {},
    "altered on the device": {"device_augment": True},
    "decoded on the device": {"device_augment": True, "device_decode": True},
}


def rows(options: Options) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        photographs = options.data or Path(folder, "patches")
        if options.data is None:
            write_quickstart(photographs, size=256, train=4 if options.small else 20, test=1)
        build([photographs], Path(folder, "shards"), BuildOptions(shard_size=50))
        manifest = Manifest.load(Path(folder, "shards"))
        for name, settings in MODES.items():
            yield {"what": name, "images": manifest.samples, **rate(manifest, settings, options)}


def rate(manifest: Manifest, settings: dict[str, bool], options: Options) -> dict[str, float]:
    """What a consumer gets once the workers are under way, and the worker's seconds of an image."""
    cores = len(os.sched_getaffinity(0))
    batch = 16 if options.small else 256
    config = LoaderConfig(workers=1 if options.small else cores, **settings)
    crops = MultiCrop(DEFAULT_VIEWS, 0, finish=not config.device_augment)
    order = Order(manifest.sizes, 0, batch, 256)
    loader = Loader(manifest, order, crops, batch_size=batch, config=config, device=options.device)
    batches = loader.iterate(0, 10**6)
    work: dict[str, float] = {}
    count = 0
    try:
        for _ in range(2 if options.small else 2 * config.workers):
            next(batches)
        finish(options)
        began = time.perf_counter()
        while time.perf_counter() - began < (0.5 if options.small else 7):
            next(batches)
            finish(options)
            count += 1
            for part, seconds in loader.work_seconds.items():
                work[part] = work.get(part, 0.0) + seconds
        elapsed = time.perf_counter() - began
    finally:
        batches.close()
    parts = {f"{part}_ms": 1e3 * seconds / (count * batch) for part, seconds in work.items()}
    return {"workers": config.workers, "images_per_s": count * batch / elapsed, **parts}


def finish(options: Options) -> None:
    if options.device.type == "cuda":
        torch.cuda.synchronize()
