"""Shards written by hand with the standard library, so that the data path is tested without the
`shards` package.
"""

import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from seer.data.storage.index import Manifest, index_path, write_index, write_manifest
from tests.kit.pictures import coloured_jpeg


def write_shards(
    directory: Path,
    sizes: Sequence[int],
    image: Callable[[int], bytes] = coloured_jpeg,
    labels: Callable[[int], int | None] = lambda i: None,
    classes: list[str] | None = None,
) -> Manifest:
    """Shards of `sizes` samples; `image` and `labels` get the global id."""
    directory.mkdir(parents=True, exist_ok=True)
    rows, sample = [], 0
    for number, size in enumerate(sizes):
        path, index = directory / f"shard-{number:06d}.tar", []
        with tarfile.open(path, "w") as tar:
            for _ in range(size):
                data, key = image(sample), f"{sample:09d}"
                info = tarfile.TarInfo(f"{key}.jpg")
                info.size = len(data)
                start = tar.offset + tarfile.BLOCKSIZE
                tar.addfile(info, io.BytesIO(data))
                index.append(
                    {
                        "key": key,
                        "source": f"{key}.jpg",
                        "offset": start,
                        "size": len(data),
                        "width": 16,
                        "height": 16,
                    }
                    | {
                        "format": "JPEG",
                        "sha256": hashlib.sha256(data).digest(),
                        "label": labels(sample),
                    }
                )
                sample += 1
        write_index(index_path(path), index)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append(
            {"shard": path.name, "samples": size, "bytes": path.stat().st_size, "sha256": digest}
        )
    write_manifest(directory, rows, {"classes": classes})
    return Manifest.load(directory)
