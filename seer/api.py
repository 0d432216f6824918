"""The Python interface: what `import seer` offers. Each function is the verb of that name, with the
options as keywords; `load_shards` is the data path by itself.

Options of recipes and tasks are given by their dotted names or nested: `steps=100`,
`**{"backbone.name": "resnet18"}` and `backbone={"name": "resnet18"}`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from seer.config import flatten, layer, resolve
from seer.data.crops.multicrop import DEFAULT_VIEWS, IMAGENET_MEAN, IMAGENET_STD, MultiCrop, View
from seer.data.loader import LoaderConfig
from seer.data.storage.index import Manifest
from seer.data.stream import ShardStream
from seer.data.views import Views
from seer.data.whole_samples import Collate, SampleCutter, Transform, suffixes_of
from seer.errors import InputError, nearest
from seer.eval.embed import Embedded
from seer.interop.models import Model
from seer.interop.models import load_model as _load_model
from seer.readiness import index_tars, with_splits
from seer.schema import Integer, check_options, option
from shards.build import BuildReport
from shards.options import BuildOptions

PathLike = str | Path
LANES = 64  # places that are read side by side; fewer where there are not so many windows


def build_shards(
    sources: PathLike | Sequence[PathLike], out: PathLike, **options: Any
) -> BuildReport:
    """`seer shards build`: folders, tars, zips and lists of URLs into shards in `out`. The same call
    again continues an interrupted build.

    Args:
        options: those of the command, with `_` for `-`: `max_side=1024`, `labels=True`, `dedup="near"`.

    Raises:
        InputError: in one line, what is wrong with a source, an option or `out`.
    """
    from shards.boxed import build_any

    several = [sources] if isinstance(sources, str | Path) else list(sources)
    return build_any(several, out, _filled(BuildOptions(), options))


def pretrain(recipe: PathLike, *, nproc: int = 1, allow_env: bool = False, **options: Any) -> Path:
    """`seer pretrain`: train, or continue, a run. Returns its directory.

    It prints what the command prints. Workers and ranks are processes of their own, so a script calls it
    below `if __name__ == "__main__":`.

    Args:
        recipe: a recipe's name or the path of a YAML file.
        nproc: processes on this host.
        options: keys of the recipe, for instance `data="photos", run_dir="runs/a", epochs=100`.

    Raises:
        InputError: in one line, what is wrong with the recipe, an option, the data or the run directory.
    """
    from seer.pretrain.recipe import load_config
    from seer.terminal import outlasting_terminal
    from seer.verbs import train

    overrides = _overrides(options)
    with outlasting_terminal():
        train.pretrain(str(recipe), overrides, nproc=nproc, allow_env=allow_env)
    return Path(load_config(str(recipe), overrides, allow_env).run_dir)


def evaluate(
    task: str,
    model: PathLike,
    data: PathLike,
    *,
    out: PathLike | None = None,
    nproc: int = 1,
    **options: Any,
) -> list[dict[str, Any]]:
    """`seer eval`: measure a backbone on labelled images. Returns one row a score, with `metric`,
    `value`, and `low` and `high`, its 95 % interval.

    Args:
        task: `knn`, `linear` or `finetune`; `all` is the quick ones, of the model and of its baselines.
        model: as `load_model` takes it, or `pixels`.
        data: class folders or labelled shards, in `train/` and `test/` (or `val/`), without which one image in five
            of each class is held out; a CSV file; or a data set as its owner lays it out, perhaps as `NAME:DIR`.
        out: results file to append to; by default the run's own, or ./results.jsonl.
        options: those of the task, for instance `k=[20]`.

    Raises:
        InputError: in one line, what is wrong with any of these.
    """
    from seer.eval.baselines import evaluate_all
    from seer.eval.task import evaluate as run

    index_tars(*with_splits(str(data)))
    if task == "all":
        return evaluate_all(str(model), data, _overrides(options), out)
    return run(task, str(model), data, _overrides(options), out, nproc)


def embed(model: PathLike, data: PathLike, out: PathLike | None = None) -> Embedded:
    """`seer embed`: a backbone's features of every image of a folder or of shards, as arrays.

    Args:
        model: as `load_model` takes it, or `pixels`.
        out: also write them to this `.parquet` or `.npz`.

    Raises:
        InputError: wrong model, data or kind of file, or no image that can be decoded.
    """
    from seer.eval.embed import compute, write

    index_tars(str(data))
    embedded = compute(str(model), data, out=out)
    if out is not None:
        write(embedded, out)
    return embedded


def load_model(model: PathLike) -> Model:
    """The model that MODEL names on the command line: a run (`RUN`, `RUN:step-100`, `RUN:random`), an
    exported file, `BACKBONE:random`, `timm:NAME[:WEIGHTS]` or `torchvision:NAME[:WEIGHTS]`.

    Its `backbone` maps `(B, 3, size, size)` images, normalised by its `mean` and `std`, to
    `(B, out_dim)` features.

    Raises:
        InputError: in one line, what is wrong with it.
    """
    return _load_model(str(model))


@overload
def load_shards(
    data: PathLike,
    batch_size: int,
    *,
    views: Mapping[str, Any] | Literal[True],
    epochs: int = 1,
    steps: int | None = None,
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    workers: int = 2,
    device: str = "cpu",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    **loader: Any,
) -> ShardStream[Views]: ...


@overload
def load_shards(
    data: PathLike,
    batch_size: int,
    *,
    transform: Transform | None = None,
    collate: Collate | None = None,
    members: Sequence[str] | None = None,
    epochs: int = 1,
    steps: int | None = None,
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    workers: int = 2,
    **loader: Any,
) -> ShardStream[Any]: ...


def load_shards(
    data: PathLike,
    batch_size: int,
    *,
    views: Mapping[str, Any] | Literal[True] | None = None,
    transform: Transform | None = None,
    collate: Collate | None = None,
    members: Sequence[str] | None = None,
    epochs: int = 1,
    steps: int | None = None,
    seed: int = 0,
    rank: int | None = None,
    world_size: int | None = None,
    workers: int = 2,
    device: str = "cpu",
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    **loader: Any,
) -> ShardStream[Any]:
    """Batches of shards for a trainer of one's own: every sample exactly once per epoch at any number
    of processes, in an order that depends on the seed alone.

    Each `for` over it is a pass of `epochs`, and the next `for` goes on with the next. Its state is one
    integer (`state_dict`, `load_state_dict`), which another number of processes, or another batch size,
    goes on from. The last batch of a pass has what is left, shared out evenly; with `steps`, a pass is that
    many batches, all full, which pass the ends of epochs. An image that cannot be decoded is replaced by the
    next good one of its shard, and counted in `replaced`.

    Args:
        data: shards in a folder or a store.
        batch_size: samples of a step, of all processes together.
        views: crops of each image as in a recipe, `{"large": {"size": 224, "count": 2}}`, or True for SwAV's
            2×224 + 4×96; batches are then `Views` on `device`, normalised by `mean` and `std`.
        transform: of each sample, in the workers. A sample is a dict as the webdataset library gives it, of bytes:
            `__key__`, `__url__`, `jpg` (or `png`, ...), `cls`, `json`, ...; and has its decoded `image`. Without it
            samples are delivered as they are, undecoded, and a damaged image among them.
        collate: of the list of a batch; by default torch's for what a `transform` gave, and none for samples.
        members: suffixes of what is read besides the image and its label; by default all that the first shard has.
        rank, world_size: this process; by default as torch.distributed or the launcher has it.
        workers: processes that read and transform; threads, if the transform cannot be sent to a process.
        loader: other options of `loader.` in a recipe: `prefetch`, `window`, `fetch`, `cache_dir`, ...

    Raises:
        InputError: no shards there; a batch that does not divide among the processes; an unknown option.
    """
    if views is not None and transform is not None:
        raise InputError("load_shards: views= and transform= exclude each other; give either")
    check_options(_Amounts(batch_size, epochs, 1 if steps is None else steps), "load_shards")
    index_tars(str(data), nested=True)
    manifest = Manifest.load(data)
    config = _filled(LoaderConfig(workers=workers), loader)
    check_options(config, "load_shards")
    if not config.lanes:  # of the order, so not the batch, which may change
        config = replace(config, lanes=min(LANES, max(1, manifest.samples // config.window)))
    length = epochs * manifest.samples if steps is None else steps * batch_size
    cutter: Any
    if views is None:
        suffixes = suffixes_of(manifest) if members is None else tuple(members)
        cutter = SampleCutter(suffixes, transform, collate or _default_collate(transform))
        if "mode" not in loader and not _travels(cutter):
            config = replace(config, mode="threads")
    else:
        crops = DEFAULT_VIEWS if views is True else _views(views)
        cutter = MultiCrop(crops, seed, not config.device_augment, mean, std)
    return ShardStream(
        manifest,
        cutter,
        batch_size,
        length,
        seed=seed,
        config=config,
        rank=rank,
        world_size=world_size,
        device=device,
    )


@dataclass
class _Amounts:
    batch_size: int = option(1, Integer(1, 2**24))
    epochs: int = option(1, Integer(1, 10**8))
    steps: int = option(1, Integer(1, 10**8))


@dataclass
class _Views:
    views: dict[str, View] = field(default_factory=dict)


def _views(views: Mapping[str, Any]) -> dict[str, View]:
    plain = {name: asdict(v) if isinstance(v, View) else dict(v) for name, v in views.items()}
    return resolve(_Views, [layer({"views": plain})]).views


def _default_collate(transform: Transform | None) -> Collate:
    from torch.utils.data import default_collate

    return list if transform is None else default_collate


def _travels(cutter: SampleCutter) -> bool:
    """Whether a process that starts anew can have it: no lambda, and nothing out of a notebook."""
    from multiprocessing.reduction import ForkingPickler

    import __main__

    try:
        pickled = bytes(ForkingPickler.dumps(cutter))
    except Exception:  # whatever an object's own pickling raises
        return False
    return hasattr(__main__, "__file__") or b"__main__" not in pickled


def _filled(defaults: Any, options: Mapping[str, Any]) -> Any:
    """A dataclass of options with some of them given, those of the dataclasses within it included."""
    own = {f.name: f for f in fields(defaults)}
    parts = {name: getattr(defaults, name) for name in own if is_dataclass(getattr(defaults, name))}
    flags = {_keyword(f): name for name, f in own.items() if name not in parts}
    values = {flags[key]: value for key, value in options.items() if key in flags}
    rest = {key: value for key, value in options.items() if key not in flags}
    for name, part in parts.items():
        keys = {_keyword(f) for f in fields(part)}
        values[name] = _filled(part, {key: rest.pop(key) for key in keys & rest.keys()})
    if rest:
        every = [*flags, *(_keyword(f) for part in parts.values() for f in fields(part))]
        unknown = next(iter(rest))
        raise InputError(f"{unknown}=: unknown option{nearest(unknown, every)}")
    return replace(defaults, **values)


def _keyword(declared: Any) -> str:
    """An option's keyword: its flag without dashes."""
    from seer.schema import flag_of

    return flag_of(declared).removeprefix("--").replace("-", "_")


def _overrides(options: Mapping[str, Any]) -> list[str]:
    """Options as the command line has them: `{"backbone": {"name": "x"}}` → `["backbone.name=x"]`."""
    return [f"{key}={_text(value)}" for key, value in flatten(dict(options)).items()]


def _text(value: Any) -> str:
    """A value as the command line has it; texts stand as they are."""
    if isinstance(value, str | Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy's and torch's
        value = value.tolist()
    return json.dumps(value, default=str, ensure_ascii=False)
