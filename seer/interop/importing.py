"""What others have published, as a file of seer's: the backbone, and SwAV's head and prototypes where
they stand beside it.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seer import outputs
from seer.backbones import build
from seer.backbones.base import Backbone
from seer.config import config_hash
from seer.data.folders import readable
from seer.engine.checkpoint import tensorfile
from seer.errors import InputError
from seer.interop import swav_heads
from seer.interop.identify import contents, fit_to
from seer.interop.initial import load_initial
from seer.interop.layouts import names_of
from seer.interop.models import PUBLISHED_IMAGES, identified
from seer.interop.native import backbone_metadata
from seer.interop.opening import open_published, own_file
from seer.interop.published import Published
from seer.interop.spec import check_import
from seer.interop.weights import FLOATING, Form, check_finite, check_forms, form


@dataclass(frozen=True)
class Found:
    """What is to be written.

    Attributes:
        backbone: which one; perhaps without memory.
        forms: of its tensors and the heads', by our names.
        read: reads one.
        library: by whose names they went.
        notes: what else there is to say.
    """

    backbone: Backbone
    forms: Mapping[str, Form]
    read: Callable[[str], Tensor]
    library: str
    notes: Mapping[str, str]


def import_backbone(
    path: Path | str,
    library: str,
    out: Path | str,
    ignore_code: bool = False,
    partial: str = "",
) -> dict[str, Any]:
    """Write the backbone that others published in `path` to the safetensors file `out`, which is a
    MODEL and something to start from.

    One tensor is in memory at a time, where the checkpoint's format allows it.

    Args:
        path: a file, the index of several, or a folder.
        library: who wrote it, one of `spec.SOURCES`; another's file is refused.
        ignore_code: as `load_pickle` takes it.
        partial: the backbone to be filled with what fits, the rest being as untrained; "" for all or nothing.

    Returns:
        `out`, `from` (the path), `library`, `architecture`, `tensors`, `heads` (the options of a training that
        continues with them), and what was left aside.

    Raises:
        InputError: what is wrong with the file, or with what it holds.
    """
    path = Path(path)
    out = Path(out)
    check_import(path, library, out)
    outputs.check_writable(out, "--out")
    if own_file(path):
        raise InputError(f"{path}: is a file of seer's already; give it where a MODEL is wanted")
    published = open_published(path, ignore_code)
    found = _part(published, path, partial) if partial else _whole(published, path)
    if library != "fairscale" and not _same_names(library, found):
        raise InputError(
            f"{path}: its tensors go by {found.library}'s names; give --from {found.library}"
        )
    kept = contents(published.forms).heads
    head_forms = {name: published.forms[theirs] for name, theirs in kept.items()}
    about: dict[str, Any] = {
        "label": readable(path.name),
        "config_hash": config_hash({"model": path.name, "backbone": found.backbone.config.name}),
    }
    if head_forms:
        about["method"] = {"name": "swav", **swav_heads.about(head_forms)}
    images = {**PUBLISHED_IMAGES, **published.images}
    metadata = backbone_metadata(found.backbone.config, **images, extra=about)

    def read(name: str) -> Tensor:
        tensor = published.read(kept[name]) if name in kept else found.read(name)
        check_finite({name: tensor}, path)
        return tensor

    _write(out, {**found.forms, **head_forms}, read, metadata)
    return {
        "out": str(out),
        "from": str(path),
        "library": found.library,
        "architecture": found.backbone.config.name,
        "tensors": len(found.forms),
        "heads": swav_heads.options(head_forms) if head_forms else "none",
        **found.notes,
    }


def _same_names(library: str, found: Found) -> bool:
    """Whether a library gives the names that were found; some share theirs."""
    names = names_of(library, found.backbone)
    return names.keys() == names_of(found.library, found.backbone).keys()


def _whole(published: Published, path: Path) -> Found:
    """All of a backbone, which its tensors tell."""
    backbone, fitted = identified(published, path)
    check_forms(backbone, fitted.forms, path)
    aside = " and ".join(contents(published.forms).aside)
    notes = {"left aside": aside} if aside else {}
    return Found(backbone, fitted.forms, fitted.read, fitted.library, notes)


def _part(published: Published, path: Path, name: str) -> Found:
    """What fits a backbone, in one that is untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = build(name)
    start = load_initial(backbone, str(path), partial=True)
    library = fit_to(backbone, published, contents(published.forms)).library
    state = backbone.state_dict()
    forms = {key: form(tensor) for key, tensor in state.items()}
    return Found(backbone, forms, state.__getitem__, library, {"partial": start.summary})


def _write(
    out: Path,
    forms: Mapping[str, Form],
    read: Callable[[str], Tensor],
    metadata: dict[str, str],
) -> None:
    """Write the file beside its place, and put it there when it is whole."""
    types = {FLOATING: torch.float32}
    shapes = {name: (types.get(f.values, torch.int64), f.shape) for name, f in forms.items()}
    beside = out.with_name(f".{out.stem}.tmp.safetensors")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tensorfile.stream(beside, shapes, read, metadata)
        beside.replace(out)
    except OSError as error:
        raise InputError(
            f"--out {out}: cannot be written: {' '.join(str(error).split())}"
        ) from error
    finally:
        with suppress(OSError):
            beside.unlink()
