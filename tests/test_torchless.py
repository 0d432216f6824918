"""What needs no torch to be known is told without it: it takes seconds to import."""

import re
from pathlib import Path

import pytest

from tests.kit.torchless import without_torch

FEW = "40 images are fewer than one batch"
NO_MODEL = "nothing: no such model; expected a run directory"
# Command → message; words in capitals are places.
REFUSED = {
    "pretrain swav_smal data=IMAGES": "did you mean 'swav_small'?",
    "pretrain swav_small data=IMAGES stepz=1": "did you mean 'steps'?",
    "pretrain swav_small data=IMAGES steps=-1": "steps: -1 is not a whole number",
    "pretrain swav_small data=IMAGES init=nothing": "init: nothing: does not exist; init takes a file",
    "pretrain swav_small data=IMAGES init=RUN": "RUN: has no finished checkpoint",
    "pretrain swav_small data=IMAGES init=resnet5:random": "did you mean 'resnet50'?",
    "pretrain swav_small data=IMAGES run_dir=FILE": "FILE: is a file; give another run_dir",
    "pretrain swav_small data=IMAGES init=FILE": "init: FILE: holds no weights",
    "pretrain swav_small data=IMAGES init=timm:resnet18:NOWHERE.pth": "nor a file that exists",
    "pretrain swav_small data=IMAGES/train run_dir=NOWHERE/run": FEW,
    "pretrain swav_small data=IMAGES epochs=1 accumulate=5": "does not divide among",
    "pretrain simclr_small data=IMAGES batch_size=1": "batch_size=1: one image at a time",
    "pretrain simclr_small data=IMAGES batch_size=4 accumulate=4": "use 8 or more",
    "plan swav_small batch_size=1 --gpus 1 --gpu h100": "use 2 or more",
    "pretrain swav_small data=EMPTY": "data=EMPTY: holds no images; give a folder",
    "pretrain swav_small data=FILE": "data=FILE: is a file; give the folder that holds it: data=",
    "pretrain swav_small data=SHARDS": FEW,
    "pretrain swav_small data=IMAGES score.data=NOWHERE": "score.data: NOWHERE does not exist",
    "pretrain swav_small data=IMAGES score.data=EMPTY": "EMPTY holds no class folders with images",
    "pretrain swav_small data=IMAGES score.data=SHARDS": "holds shards without labels",
    "pretrain swav_small data=IMAGES score.data=IMAGES score.every=1500": "use score.every=2000, or",
    "pretrain swav_small data=IMAGES score.tasks=[knm]": "score.tasks[0]: 'knm' is unknown",
    "score NOWHERE --data IMAGES": "NOWHERE: not a run directory",
    "score IMAGES --data IMAGES --follow": "IMAGES: not a run directory",
    "score RUN --data IMAGES": "RUN: has no finished checkpoint",
    "score RUN --data NOWHERE --follow": "NOWHERE does not exist",
    "score RUN --data IMAGES --task finetune": "--task finetune: not scored while a run trains",
    "score RUN --data IMAGES --follow kk=1": "kk: none of knn, linear has such an option",
    "launch slurm -- score RUN --data": "score RUN --data: ",
    "plan swav_small --gpus 3 --gpu h100": "does not divide among 3 processes",
    "plan swav_small backbone.name=resnet5 --gpus 1 --gpu h100": "did you mean 'resnet50'?",
    "plan swav_small --gpus 1 --gpu h100 --calibrate NOWHERE": "NOWHERE: not a run directory",
    "speedrun cpu data=NOWHERE": "NOWHERE does not exist",
    "speedrun cpu data=EMPTY": "EMPTY holds no class folders with images",
    "speedrun cpu data=IMAGES --nproc 3": "batch_size=128 does not divide among 3 processes",
    "eval knm --model pixels --data IMAGES": "did you mean 'knn'?",
    "eval al --model pixels --data IMAGES": "did you mean 'all'?",
    "eval all --model pixels --data IMAGES kk=1": "kk: none of knn, linear has such an option",
    "eval knn --model pixels@32 --data IMAGES": "pixels@32: expected pixels, or pixels:SIZE",
    "browse pixels:0 --data IMAGES": "pixels:0: expected pixels, or pixels:SIZE",
    "embed --model resnet18:random@4097 --data IMAGES --out a.npz": "images have up to 4,096 px",
    "eval knn --model resnet18:random@0 --data IMAGES": "resnet18:random@0: no such model",
    "eval all --model pixels --data IMAGES --nproc 2": "--nproc 2: all is one process",
    "eval invariance --model pixels --data IMAGES --nproc 2": "--nproc 2: invariance is one process",
    "eval fewshot --model pixels --data IMAGES shots=[1,1]": "shots: it holds something twice",
    "eval knn --model pixels --data IMAGES --out FOLDER": "FOLDER",
    "eval knn --model pixels --data NOWHERE": "NOWHERE does not exist",
    "eval knn --model pixels --data EMPTY": "EMPTY holds no class folders with images",
    "eval knn --model pixels --data food11:IMAGES": "did you mean 'food101'?",
    "eval knn --model pixels --data food101:IMAGES": "it is not Food-101 as its owner lays it out",
    "eval knn --model pixels --data food101": "say food101:DIR",
    "browse nothing --data IMAGES": NO_MODEL,
    "browse RUN --data IMAGES": "RUN: has no finished checkpoint",
    "browse pixels --data EMPTY": "EMPTY: holds no images that can be read",
    "browse pixels --data NOWHERE": "NOWHERE: no such folder",
    "browse pixels --data IMAGES protocol=dino": "protocol: is for scores",
    "browse pixels --data IMAGES sise=3": "did you mean 'size'?",
    "data check NOWHERE": "NOWHERE is no folder",
    "eval knn --model nothing --data IMAGES": NO_MODEL,
    "eval knn --model IMAGES --data IMAGES": "IMAGES: not a run directory",
    "eval knn --model RUN --data IMAGES": "RUN: has no finished checkpoint",
    "eval knn --model RUN:step-7 --data IMAGES": "RUN: has no finished checkpoint",
    "eval knn --model weights.pth --data IMAGES": "no such model",
    "eval knn --model resnet5:random --data IMAGES": "did you mean 'resnet50'?",
    "eval finetune --model pixels --data IMAGES": "pixels: no such model",
    "embed --model nothing --data IMAGES --out f.npz": NO_MODEL,
    "embed --model pixels --data NOWHERE --out f.npz": "NOWHERE: no such folder",
    "embed --model pixels --data EMPTY --out f.npz": "EMPTY: holds no images",
    "embed --model pixels --data IMAGES --out f.txt": "ends in .parquet or .npz",
    "cluster NOWHERE --clusters 3 --out lists": "NOWHERE: no such file; give what seer embed wrote",
    "export nothing --to timm --out f.safetensors": NO_MODEL,
    "export RUN --to tim --out f.safetensors": "did you mean 'timm'?",
    "export RUN --to timm --out f.pth": "ends in .safetensors",
    "export timm:resnet18 --to timm --out f.safetensors": "is timm's own already",
    "transfer --model pixels --data EMPTY": "--suite quick: none of its data sets is there",
    "transfer --model pixels --data NOWHERE": "NOWHERE is no folder",
    "transfer --model pixels --data IMAGES --suite quik": "did you mean 'quick'?",
    "transfer --model pixels --data IMAGES sise=3": "did you mean 'size'?",
    "transfer --model pixels --data IMAGES --out FILE": "FILE",
    "transfer --model pixels --data IMAGES --part 3/2": "3/2",
    "transfer --model pixels --model pixels --data IMAGES": "--model pixels: is given twice",
    "transfer --model nothing --data IMAGES": NO_MODEL,
    "correlate NOWHERE --with knn": "NOWHERE: no such file; give results.jsonl or a CSV file",
    "correlate FILE --with knn": "FILE: no results",
    "rank FILE --of knn": "FILE: no results",
    "audit NOWHERE": "NOWHERE",
    "report NOWHERE": "NOWHERE: not a run directory",
    "config swav_small stepz": "did you mean 'steps'?",
    "shards build NOWHERE --out out": "NOWHERE does not exist",
    "shards index EMPTY": "no .tar in EMPTY",
    "shards verify NOWHERE": "NOWHERE does not exist",
    "shards remove SHARDS": "give one of --keys",
    "shards stats EMPTY": "EMPTY is empty",
    "shards saliency EMPTY --out out": "EMPTY is empty",
    "launch local -- pretran swav_small": "did you mean 'pretrain'?",
    "launch local -- pretrain swav_small data=NOWHERE": "NOWHERE does not exist",
    "launch torchrun --gpus-per-node 8 -- pretrain swav_smal data=x": "did you mean 'swav_small'?",
    "launch slurm -- pretrain swav_small data=x stepz=1": "did you mean 'steps'?",
    "launch slurm -- eval knm --model x --data y": "did you mean 'knn'?",
    "launch slurm -- eval knn --model x --data y kk=1": "did you mean 'k'?",
    "launch slurm --cluster a1000 -- recipes": "--cluster a1000: unknown",
    "launch status NOWHERE": "NOWHERE: no launch or job",
}


@pytest.fixture
def places(folder, shards, tmp_path) -> dict[str, Path]:
    """What the words in capitals stand for: class folders, a run without a checkpoint, ..."""
    names = ("EMPTY", "RUN", "FOLDER", "FILE", "NOWHERE", "WEIGHTS")
    of_this_test = {name: tmp_path / name.lower() for name in names}
    for name in ("EMPTY", "RUN", "FOLDER"):
        of_this_test[name].mkdir()
    (of_this_test["RUN"] / "config.yaml").write_text("seed: 1\n")
    (of_this_test["FOLDER"] / "x").touch()
    of_this_test["FILE"].touch()
    return {"IMAGES": folder, "SHARDS": shards, **of_this_test}


def test_what_is_wrong_is_one_line_without_torch(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))

    def filled(text: str) -> str:
        return re.sub("|".join(places), lambda match: str(places[match[0]]), text)

    outcomes = without_torch(*(filled(command).split() for command in REFUSED))
    wrong = [
        (command, out, err)
        for (command, message), (code, out, err) in zip(REFUSED.items(), outcomes, strict=True)
        if filled(message) not in err or (code, out, err.count("\n")) != (2, "", 1)
    ]
    assert not wrong
    assert set(tmp_path.rglob("*")) == before
