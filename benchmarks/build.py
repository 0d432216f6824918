"""Images/s of `seer shards build`: from the web against img2dataset, from a folder against
`webdataset.ShardWriter`.

    python benchmarks/build.py [--images 6000] [--img2dataset PATH] [--rounds 2] [--json FILE]

The web is `unreliable.py` on loopback: pages that are gone, stall, break or are slow, the same ones
for both. Each contestant is a process that is timed from start to end, with as many processes,
connections, tries and seconds of patience; all take turns, and the best round counts. Rates are of
images that arrived in shards. seer decodes every image in full to check it; with original bytes
img2dataset does not decode, and the plain `ShardWriter` loop never does: it is held against
`--no-check`, which reads headers only, and a loop that lets Pillow decode each image against the
rest. img2dataset's pins conflict with ours: install it into an environment of its own and say with
`--img2dataset` where its command is.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import cv2
import numpy as np
import simplejpeg
from harness import arguments, figure, report
from unreliable import url

from seer.quickstart.pictures import photographs

PATIENCE, RETRIES = 5, 1  # seconds, tries after the first
SHARD = 1000  # images
SEER = [sys.executable, "-c", "from seer.cli import main; main()", "shards", "build"]
LOOP = """
import io, sys
from pathlib import Path
import webdataset
from PIL import Image
folder, out, size, check = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "check"
with webdataset.ShardWriter(f"{out}/shard-%06d.tar", maxcount=size, verbose=0) as writer:
    for path in sorted(folder.glob("*.jpg")):
        data = path.read_bytes()
        if check:
            Image.open(io.BytesIO(data)).load()
        writer.write({"__key__": path.stem, "jpg": data})
"""


def write_pictures(folder: Path, count: int) -> None:
    """Crops of photographs, 500 to 1000 pixels a side, at JPEG quality 90."""
    draw, photos = np.random.default_rng(0), list(photographs(max_side=1200).values())
    for number in range(count):
        photo = photos[number % len(photos)]
        height, width = draw.integers(500, 1001, 2)
        top, left = (int(draw.integers(0, max(1, have // 3))) for have in photo.shape[:2])
        crop = cv2.resize(
            photo[top:, left:], (int(width), int(height)), interpolation=cv2.INTER_AREA
        )
        (folder / f"{number:06}.jpg").write_bytes(
            simplejpeg.encode_jpeg(np.ascontiguousarray(crop), quality=90)
        )


def run(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds that a command took, and those of all cores; its output is hidden unless it fails;
    `out` is new.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    quiet = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    began, before = time.perf_counter(), getrusage(RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env=quiet)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\n{done.stderr}")
    after = getrusage(RUSAGE_CHILDREN)
    return (
        time.perf_counter() - began,
        after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
    )


def samples_in(out: Path) -> int:
    """Images in the tars of a folder."""
    tars = sorted(out.glob("*.tar"))
    listed = (
        subprocess.run(["tar", "tf", tar], capture_output=True, text=True, check=True).stdout
        for tar in tars
    )
    return sum(line.endswith(".jpg") for lines in listed for line in lines.splitlines())


def seer_from_web(urls: Path, out: Path, connections: int, *more: str) -> list[str]:
    patience = [
        "--connect-timeout",
        str(PATIENCE),
        "--read-timeout",
        str(PATIENCE),
        "--timeout",
        str(PATIENCE),
    ]
    limits = [
        "--connections",
        str(connections),
        "--per-host",
        str(connections),
        "--retries",
        str(RETRIES),
    ]
    size = ["--shard-size", str(SHARD), "--allow-private"]
    return [*SEER, str(urls), "--out", str(out), *size, *limits, *patience, *more]


def img2dataset_from_web(
    program: str, urls: Path, out: Path, connections: int, *more: str
) -> list[str]:
    options = {
        "url_list": urls,
        "output_folder": out,
        "output_format": "webdataset",
        "processes_count": len(os.sched_getaffinity(0)),
        "thread_count": connections,
        "number_sample_per_shard": SHARD,
        "timeout": PATIENCE,
        "retries": RETRIES,
    }
    return [program, *(f"--{name}={value}" for name, value in options.items()), *more]


def compete(contestants: dict[str, tuple[list[str], Path]], rounds: int) -> dict[str, float]:
    """Images/s of the best round of each."""
    rates = dict.fromkeys(contestants, 0.0)
    for _ in range(rounds):
        for name, (command, out) in contestants.items():
            seconds, busy = run(command, out)
            made = samples_in(out)
            rates[name] = max(rates[name], made / seconds)
            cost = f"{1000 * busy / made:.1f} ms of a core each"
            print(
                f"  {name:34}{made:7,} images in {seconds:6.1f} s: {made / seconds:7.1f}/s, {cost}",
                flush=True,
            )
    return rates


POLICIES: dict[str, tuple[list[str], list[str]]] = {
    "original bytes": ([], ["--resize_mode=no", "--disable_all_reencoding=True"]),
    "shorter side 256": (
        ["--shorter-side", "256"],
        ["--resize_mode=keep_ratio", "--image_size=256"],
    ),
}


def web_figures(options: argparse.Namespace, pictures: Path, work: Path) -> list[dict]:
    """Downloads, with the bytes as they come and made smaller."""
    urls, out, n = work / "urls.txt", work / "out", options.connections
    urls.write_text("".join(f"{url(number)}\n" for number in range(options.images)))
    program = shutil.which(options.img2dataset)
    if program is None:
        print(
            f"img2dataset is not installed ({options.img2dataset}): seer runs without this peer",
            flush=True,
        )
    command = [sys.executable, str(Path(__file__).with_name("unreliable.py")), str(pictures)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    try:
        assert server.stdout.readline() == "ready\n", "the server did not start"
        figures = []
        for name, (ours, theirs) in POLICIES.items():
            contestants = {f"seer, {name}": (seer_from_web(urls, out, n, *ours), out)}
            if program:
                contestants[f"img2dataset, {name}"] = (
                    img2dataset_from_web(program, urls, out, n, *theirs),
                    out,
                )
            rates = list(compete(contestants, options.rounds).values())
            title = f"build from {options.images:,} URLs on an unreliable web, {name}"
            figures.append(
                figure(title, "images/s", rates[0], {"img2dataset": rates[1]} if program else {})
            )
        return figures
    finally:
        server.kill()
        server.wait()


def folder_figures(options: argparse.Namespace, pictures: Path, work: Path) -> list[dict]:
    """The same pictures as files: every image decoded, and bytes copied."""
    out = work / "out"
    loop = [sys.executable, "-c", LOOP, str(pictures), str(out), str(SHARD)]
    ours = [*SEER, str(pictures), "--out", str(out), "--shard-size", str(SHARD)]
    contestants = {
        "seer": (ours, out),
        "ShardWriter, images decoded": ([*loop, "check"], out),
        "seer --no-check": ([*ours, "--no-check"], out),
        "ShardWriter, bytes copied": ([*loop, "copy"], out),
    }
    seer, decoded, unchecked, copied = compete(contestants, options.rounds).values()
    title = f"build from a folder of {len(list(pictures.iterdir())):,} photographs"
    return [
        figure(
            f"{title}, every image decoded", "images/s", seer, {"ShardWriter and Pillow": decoded}
        ),
        figure(f"{title}, bytes copied", "images/s", unchecked, {"ShardWriter": copied}),
    ]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--connections", type=int, default=64, help="per process")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--img2dataset", default="img2dataset", metavar="PATH", help="its command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pictures = work / "pictures"
        pictures.mkdir()
        write_pictures(pictures, max(1, options.images // 2))
        report(
            [*web_figures(options, pictures, work), *folder_figures(options, pictures, work)],
            options.json,
        )


if __name__ == "__main__":
    main()
