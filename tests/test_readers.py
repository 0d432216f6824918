"""Who opens what: every call that opens or parses a file, by module, against the list of those that
may.

Whatever stands in a data folder, a run directory, a recipe or a model file is input, and is read
through `seer.inputs` and `storage.tables`. A module that opens files in another way stands in
`OPENERS`, with what it opens and why.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

NAMES = {
    "open", "io.open", "os.open", "os.fdopen", "json.load", "json.loads", "pickle.load", "pickle.loads",
    "yaml.load", "yaml.safe_load", "yaml.parse", "yaml.compose", "np.load", "np.fromfile",
    "np.memmap", "np.loadtxt", "h5py.File", "torch.load", "safe_open", "load_file", "Image.open", "tarfile.open",
    "zipfile.ZipFile",
    "ZipFile", "sqlite3.connect", "mmap.mmap", "csv.reader", "csv.DictReader", "ElementTree.parse", "pa.memory_map",
    "pa.ipc.open_file", "pa.ipc.open_stream", "csv.open_csv", "pc.open_csv", "open_data", "inputs.open_data",
}  # fmt: skip
METHODS = {"open", "read_text", "read_bytes"}  # of a Path, whatever it is called
MODULES = {"pq"}  # pq.read_table, pq.ParquetFile, …

# Methods of ours that have the name, and open no file by a path.
OTHERS = {"self.open", "cache.open", "self.lease.open", "result.open"}

OPENERS = {
    "seer.inputs": "the one reader of small files that others may have written",
    "seer.data.storage.tables": "the one reader of Parquet files with declared columns",
    "seer.files": "files of ours: to have them reach the disk, to hash them, and to write without following links",
    "seer.jsonl": "a run's metrics and results, from files that seer.inputs has opened",
    "seer.rundir.rundir": "a run's pictures, whose bytes seer.inputs has read",
    "seer.checks.audit": "what was removed from the data of a store",
    "seer.processes": "what ranks of ours send",
    "seer.engine.peers": "what processes of one run leave for each other",
    "seer.interop.modelfile": "the first bytes of model files",
    "seer.interop.pickles": "model files, as tensors and plain containers",
    "seer.interop.weights": "model files and kept features",
    "seer.pretrain.clusters": "features that seer embed wrote",
    "seer.interop.spec": "the first bytes of a file of weights",
    "seer.config.layers": "the text of recipes and profiles, as seer.inputs has read and checked it",
    "seer.checks.machine": "settings of the kernel",
    "seer.data.storage.index": "the seal of a file whose bytes seer.inputs has read; manifests and indices of a store",
    "seer.data.storage.cache": "shards in a cache of ours, which are compared with their SHA-256",
    "seer.data.decoding.decode": "bytes as images, within limits",
    "seer.data.folders": "image files, regular ones, which seer.data.decoding.decode takes",
    "seer.eval.outcomes": "what images scored, kept by ours",
    "seer.eval.probes.together": "features that processes of ours compute together, in a file without a name",
    "seer.eval.data.boxlayouts": "the beginnings of COCO's files",
    "seer.eval.data.imagepairs": "the heads of maps that are pictures",
    "seer.eval.trained.dense.mapsheet": "pictures of ours",
    "seer.eval.data.mapfiles": "the beginnings of .npy, whose numbers must all be there",
    "seer.eval.data.nyu": "NYUv2's file of HDF5, by its library",
    "seer.eval.data.csvlists": "tables whose text seer.inputs has read",
    "seer.browse.answers": "the page's own scripts",
    "seer.eval.data.upright": "the beginnings of image files, which seer.data.decoding.decode takes",
    "seer.quickstart.blocks": "a run's picture of ours",
    "seer.quickstart.pictures": "photographs that come with the dependencies",
    "seer.engine.checkpoint.header": "checkpoints",
    "seer.engine.checkpoint.integrity": "checkpoints",
    "seer.engine.metrics": "the processor's name",
    "seer.engine.checkpoint.tensorfile": "checkpoints",
    "shards.archives.columns": "Parquet with images",
    "shards.archives.contents": "the first bytes of members that may be images",
    "shards.writing.cut": "a tar that a part of is copied",
    "shards.dedup.find": "a scratch file of ours",
    "shards.download.client": "local files that a list names",
    "shards.sources.formats": "what Hugging Face notes in Parquet files",
    "shards.archives.headers": "tars",
    "shards.sources.lines": "lists of text, line by line",
    "shards.sources.listing": "a listing of ours",
    "shards.sources.lists": "lists",
    "shards.dedup.near": "a scratch file of ours",
    "shards.sources.samples": "image files, which seer.data.decoding.decode takes",
    "shards.saliency.masked": "a tar that is copied, with masks between",
    "shards.takedown": "rows that seer.inputs has read, as they are, to be logged",
    "shards.archives.tars": "tars",
    "shards.archives.zips": "zips",
    "launch.holder": "the kernel's word on a process",
    "launch.slurm": "the kernel's list of mounts",
    "launch.status": "states of jobs",
}


def opens(call: ast.Call) -> bool:
    """Whether a call opens a file to read it, or parses one."""
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in OTHERS or _only_writes(call):
        return False
    if name.split(".")[0] in MODULES:
        return last.startswith(("read", "ParquetFile"))
    return name in NAMES or (isinstance(call.func, ast.Attribute) and last in METHODS)


def _only_writes(call: ast.Call) -> bool:
    """Whether some argument is the mode of a file that is written and not read."""
    modes = [argument.value for argument in call.args if isinstance(argument, ast.Constant)]
    flags = {ast.unparse(flag) for argument in call.args[1:] for flag in ast.walk(argument)}
    return "os.O_WRONLY" in flags or any(
        mode in ("w", "wb", "x", "xb", "a", "ab") for mode in modes
    )


@cache
def openers() -> list[tuple[str, int, str]]:
    """Module, line and text of every such call."""
    return list(_openers())


def _openers() -> Iterator[tuple[str, int, str]]:
    for package in ("seer", "shards", "launch"):
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and opens(node):
                    yield module, node.lineno, ast.unparse(node)


def test_whoever_opens_a_file_is_listed():
    unlisted = [
        f"{module}, line {line}: {call}"
        for module, line, call in openers()
        if module not in OPENERS
    ]
    assert not unlisted, (
        "read it by seer.inputs (or storage.tables), or list the module in OPENERS with what it opens"
    )


def test_who_is_listed_opens_something():
    assert not OPENERS.keys() - {module for module, _, _ in openers()}


def test_calls_that_open_are_seen():
    seen = (
        "open(x)",
        "path.open('rb')",
        "json.loads(t)",
        "pq.ParquetFile(f)",
        "yaml.compose(t)",
        "p.read_bytes()",
    )
    for text in seen:
        assert opens(ast.parse(text).body[0].value), text  # type: ignore[attr-defined]
    for text in (
        "reopen(x)",
        "open(x, 'w')",
        "json.dumps(x)",
        "pq.write_table(t, f)",
        "read_json(path, KIND)",
    ):
        assert not opens(ast.parse(text).body[0].value), text  # type: ignore[attr-defined]
