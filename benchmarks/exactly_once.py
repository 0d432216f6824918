"""Which samples a training sees, by the loader that feeds it: 128 of them on three ranks; on two, killed
in mid-epoch, then on four; with another batch from there on; with a damaged image.

    pip install webdataset mosaicml-streaming litdata turboloader
    python benchmarks/exactly_once.py [--json FILE]

Every rank is a process of its own in a gloo group, as torchrun starts them, and uses a loader as its
documentation says for training on several ranks, with its own state where it has one. A rank that ends
before the others is what makes a DistributedDataParallel training hang. A peer that is not installed is
said so.
"""

import importlib.util
import io
import json
import os
import re
import socket
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
from harness import arguments, machine
from PIL import Image

SAMPLES, PER_SHARD, DAMAGED = 128, 16, 77
BLANK = -1
SECONDS = 120  # that a process may take


@dataclass
class Part:
    """One stretch of a training: so many ranks, a batch of so many samples over all of them, and the step
    after which it is killed (0: it goes on to the end of the epoch).
    """

    ranks: int
    batch: int
    stop: int = 0


SCENARIOS = {
    "3 ranks": [Part(3, 12)],
    "2 ranks, killed, 4 ranks": [Part(2, 16, stop=3), Part(4, 16)],
    "2 ranks, killed, half the batch": [Part(2, 16, stop=3), Part(2, 8)],
    "a damaged image": [Part(2, 16)],
}


def image(i: int, damaged: bool) -> bytes:
    """A white column, then the bits of the number as black or white ones: who gives nothing but pixels can
    be told, too.
    """
    bits = np.array([1, *((i >> k) & 1 for k in range(7))], np.uint8)
    pixels = np.broadcast_to(255 * bits.repeat(8)[None, :, None], (64, 64, 3))
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=95)
    content = out.getvalue()
    return bytes(len(content)) if damaged and i == DAMAGED else content


def number_in(pixels: np.ndarray) -> int:
    """What `image` wrote into `(3, 64, 64)` pixels; `BLANK` if nothing stands there."""
    white, *bits = pixels.mean((0, 1)).reshape(8, 8).mean(1) > pixels.max() / 2
    return sum(int(bit) << k for k, bit in enumerate(bits)) if white else BLANK


def decoded(content: bytes) -> None:
    Image.open(io.BytesIO(content)).convert("RGB")


# The loaders. Each writes its data, and gives batches of samples' numbers with its state after each.

Batches = Iterator[tuple[list[int], Any]]


def write_tars(folder: Path, damaged: bool, per_shard: int = PER_SHARD) -> None:
    folder.mkdir(exist_ok=True)
    for first in range(0, SAMPLES, per_shard):
        with tarfile.open(folder / f"{first:06d}.tar", "w") as tar:
            for i in range(first, first + per_shard):
                for suffix, content in (("jpg", image(i, damaged)), ("cls", b"0")):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def seer_write(folder: Path, damaged: bool) -> None:
    from shards.indexing import index

    write_tars(folder, damaged=False)
    index([folder], workers=1)
    write_tars(folder, damaged)  # what is damaged before is never trained on


def seer_number(sample: Any) -> int:
    decoded(sample["jpg"])
    return int(sample["__key__"])


def seer_read(folder: Path, own_batch: int, ranks: int, state: Any) -> Batches:
    import seer

    batches = seer.load_shards(
        folder, own_batch * ranks, transform=seer_number, collate=list, workers=0
    )
    if state is not None:
        batches.load_state_dict(state)
    for batch in batches:
        yield batch, batches.state_dict()


def webdataset_read(folder: Path, own_batch: int, ranks: int, state: Any) -> Batches:
    """Shards are split among ranks. There is no state: a continued training begins the epoch anew."""
    import webdataset

    tars = sorted(map(str, folder.glob("*.tar")))
    samples = webdataset.WebDataset(
        tars, shardshuffle=len(tars), nodesplitter=webdataset.split_by_node, seed=0
    )
    samples = samples.shuffle(100).decode("pil").to_tuple("__key__", "jpg").map(lambda s: int(s[0]))
    for batch in webdataset.WebLoader(samples, batch_size=own_batch, num_workers=0):
        yield batch.tolist(), None


def webdataset_resampled_read(folder: Path, own_batch: int, ranks: int, state: Any) -> Batches:
    """Shards are drawn with replacement, so that all ranks have equally many batches."""
    import webdataset

    tars = sorted(map(str, folder.glob("*.tar")))
    samples = webdataset.WebDataset(
        tars, resampled=True, nodesplitter=webdataset.split_by_node, seed=0
    )
    samples = samples.shuffle(100).decode("pil").to_tuple("__key__", "jpg").map(lambda s: int(s[0]))
    loader = webdataset.WebLoader(samples, batch_size=own_batch, num_workers=0)
    for batch in loader.with_epoch(SAMPLES // (own_batch * ranks)):
        yield batch.tolist(), None


def streaming_write(folder: Path, damaged: bool) -> None:
    from streaming import MDSWriter

    columns = {"number": "int", "jpg": "bytes"}
    limit = PER_SHARD * 2000
    with MDSWriter(out=str(folder), columns=columns, size_limit=limit) as writer:
        for i in range(SAMPLES):
            writer.write({"number": i, "jpg": image(i, damaged)})


def streaming_read(folder: Path, own_batch: int, ranks: int, state: Any) -> Batches:
    from streaming import StreamingDataLoader, StreamingDataset

    class Numbers(StreamingDataset):
        def __getitem__(self, i: Any) -> Any:
            sample = super().__getitem__(i)
            decoded(sample["jpg"])
            return {"number": sample["number"]}

    samples = Numbers(local=str(folder), shuffle=True, batch_size=own_batch)
    loader = StreamingDataLoader(samples, batch_size=own_batch, num_workers=0)
    if state is not None:
        loader.load_state_dict(state)
    for batch in loader:
        yield batch["number"].tolist(), loader.state_dict()


def litdata_sample(job: tuple[int, bool]) -> dict[str, Any]:
    return {"number": job[0], "jpg": image(*job)}


def litdata_write(folder: Path, damaged: bool) -> None:
    import litdata

    litdata.optimize(
        fn=litdata_sample,
        inputs=[(i, damaged) for i in range(SAMPLES)],
        output_dir=str(folder),
        chunk_size=PER_SHARD,
        num_workers=1,
    )


def litdata_read(folder: Path, own_batch: int, ranks: int, state: Any) -> Batches:
    import litdata

    class Numbers(litdata.StreamingDataset):
        def __getitem__(self, i: Any) -> int:
            sample = super().__getitem__(i)
            decoded(sample["jpg"])
            return sample["number"]

    samples = Numbers(str(folder), shuffle=True, drop_last=True)  # as it says for training
    loader = litdata.StreamingDataLoader(samples, batch_size=own_batch, num_workers=0)
    if state is not None:
        loader.load_state_dict(state)
    for batch in loader:
        yield batch.tolist(), loader.state_dict()


def turboloader_write(folder: Path, damaged: bool) -> None:
    write_tars(folder, damaged, SAMPLES)  # it takes a single one


def turboloader_read(folder: Path, own_batch: int, ranks: int, state: Any) -> Batches:
    import turboloader

    loader = turboloader.DataLoader(
        str(folder / "000000.tar"),
        batch_size=own_batch,
        shuffle=True,
        image_size=64,
        output_format="pytorch",
        enable_distributed=True,
        world_rank=int(os.environ["RANK"]),
        world_size=ranks,
        drop_last=True,  # as it says for training
    )
    if state is not None:
        loader.load_state_dict(state)
    for pixels, _ in loader:
        yield [number_in(np.asarray(one)) for one in pixels], loader.state_dict()


@dataclass(frozen=True)
class System:
    """A loader: the package that has it, and how it writes its data and reads them."""

    package: str
    module: str
    write: Callable[[Path, bool], None]
    read: Callable[[Path, int, int, Any], Batches]

    @property
    def version(self) -> str:
        try:
            return version(self.package)
        except PackageNotFoundError:
            return ""


SYSTEMS = {
    "seer": System("seer-pretrain", "seer", seer_write, seer_read),
    "webdataset, split by node": System("webdataset", "webdataset", write_tars, webdataset_read),
    "webdataset, resampled": System(
        "webdataset", "webdataset", write_tars, webdataset_resampled_read
    ),
    "Streaming": System("mosaicml-streaming", "streaming", streaming_write, streaming_read),
    "litdata": System("litdata", "litdata", litdata_write, litdata_read),
    "TurboLoader": System("turboloader", "turboloader", turboloader_write, turboloader_read),
}


# A rank's process


def be_rank(name: str, folder: Path, part: Part, place: dict[str, str], scratch: Path) -> None:
    """Take this rank's batches, and leave what they held, with the state after the last one."""
    os.environ.update(place)
    log = os.open(scratch / f"{place['RANK']}.log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    dist.init_process_group("gloo")
    state_file = scratch / "state.json"
    state = json.loads(state_file.read_text()) if state_file.is_file() else None
    steps = []
    reached = None
    for numbers, reached in SYSTEMS[name].read(  # noqa: B007
        folder, part.batch // part.ranks, part.ranks, state
    ):
        steps.append(numbers)
        if len(steps) == part.stop:
            break
    result = json.dumps({"steps": steps, "state": reached})
    (scratch / f"{place['RANK']}.json").write_text(result)
    dist.barrier()  # who held the store of the group must not be the first to go
    # At once, as a kill does it; what a loader would still do at its end helps nobody who was killed.
    os._exit(0)


def run_part(name: str, folder: Path, part: Part, state: Any, scratch: Path) -> list[dict]:
    """What each rank took. Raises RuntimeError with a rank's last line if one failed."""
    for left in scratch.glob("*.json"):
        left.unlink()
    if state is not None:
        (scratch / "state.json").write_text(json.dumps(state))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": part.ranks, "LOCAL_WORLD_SIZE": part.ranks, "MASTER_PORT": port}
    place |= {"MASTER_ADDR": "localhost", "NNODES": 1, "NODE_RANK": 0}
    processes = []
    for rank in range(part.ranks):
        own = place | {"RANK": rank, "LOCAL_RANK": rank, "GLOBAL_RANK": rank}
        texts = {key: str(value) for key, value in own.items()}
        # Forked, so that they need not import everything anew.
        process = get_context("fork").Process(
            target=be_rank, args=(name, folder, part, texts, scratch)
        )
        process.start()
        processes.append(process)
    return _collected(processes, scratch)


def _collected(processes: list[Any], scratch: Path) -> list[dict]:
    hangs = False
    for process in processes:
        process.join(5 if hangs else SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            hangs = True
    outs = [scratch / f"{rank}.json" for rank in range(len(processes))]
    if all(out.is_file() for out in outs):
        return [json.loads(out.read_text()) for out in outs]
    said = [(scratch / f"{rank}.log").read_text().splitlines() for rank in range(len(processes))]
    errors = [line for lines in said for line in lines if re.match(r"[\w.]*Error\b", line)]
    # What the others say of a rank that has gone is a consequence.
    causes = [line for line in errors if "gloo" not in line]
    raise RuntimeError(f"raises {causes[0].partition(':')[0]}" if causes else "hangs")


def outcome(name: str, parts: list[Part], folder: Path, scratch: Path) -> str:
    """What came of an epoch, in a few words."""
    counts = Counter[int]()
    state = None
    uneven = ""
    for part in parts:
        try:
            ranks = run_part(name, folder, part, state, scratch)
        except RuntimeError as error:
            return str(error)
        state = ranks[0]["state"]
        for rank in ranks:
            counts.update(number for step in rank["steps"] for number in step)
        steps = [len(rank["steps"]) for rank in ranks]
        if len(set(steps)) > 1:
            uneven = f", ranks of {', '.join(map(str, steps))} steps"
    blank = counts.pop(BLANK, 0)
    missing = SAMPLES - len(counts)
    again = counts.total() - len(counts)
    exact = "each once" if not missing and not again else f"{missing} missing, {again} again"
    return exact + f", {blank} blank" * bool(blank) + uneven


def table(names: list[str]) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for name in names:
        system = SYSTEMS[name]
        title = f"{name} {system.version}".strip()
        if importlib.util.find_spec(system.module) is None:
            rows[title] = dict.fromkeys(SCENARIOS, "not installed")
            continue
        importlib.import_module(system.module)
        with tempfile.TemporaryDirectory() as temporary:
            scratch = Path(temporary)
            for damaged in (False, True):
                system.write(scratch / f"data-{damaged}", damaged)
            row = {}
            for scenario, parts in SCENARIOS.items():
                folder = scratch / f"data-{scenario == 'a damaged image'}"
                row[scenario] = outcome(name, parts, folder, scratch)
                print(f"{title:32} {scenario:32} {row[scenario]}", flush=True)
            rows[title] = row
    return rows


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    options = parser.parse_args()
    rows = table(options.only)
    print(f"\n|  | {' | '.join(SCENARIOS)} |\n|{'---|' * (len(SCENARIOS) + 1)}")
    for title, row in rows.items():
        print(f"| {title} | {' | '.join(row.values())} |")
    print(f"\n{machine()}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
