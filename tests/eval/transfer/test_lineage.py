"""From what models have learned, of shards that are built of a data set's own images."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torchvision
import yaml

from seer.data.storage.index import MANIFEST
from seer.eval.data.splitting import train_and_test
from seer.eval.transfer import lineage
from seer.eval.transfer.agenda import DataPlace
from seer.eval.transfer.journal import Loaded
from seer.eval.transfer.lineage import BYTES, FOLDER, NAME, UNKNOWN, Overlap, learned, overlap
from shards.build import build
from tests.kit.pictures import write_images


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Two data sets, and a run on the training images of the first."""
    root = tmp_path_factory.mktemp("places")
    for number, name in enumerate(("stones", "walls")):
        write_images(root / name / "train", 6, seed=2 * number)
        write_images(root / name / "test", 4, seed=2 * number + 1)
    build([root / "stones" / "train"], root / "some-shards")
    make_run(root / "run", data=str(root / "some-shards"), method={"name": "swav"})
    shutil.copy(root / "some-shards" / MANIFEST, root / "run" / MANIFEST)
    return root


def make_run(run: Path, **config) -> str:
    run.mkdir()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return str(run)


def place_of(folder: Path) -> tuple[DataPlace, Loaded]:
    place = DataPlace(folder.name, folder.name, str(folder), "yours", ("knn",), 30, 3)
    return place, Loaded(*train_and_test(folder))


def test_a_run_says_how_many_images_of_which_folder_it_learned_from(places):
    lesson = learned(str(places / "run"))
    assert lesson.words == "learned from 18 images of stones/train without labels (swav)"
    assert learned(f"{places / 'run'}:step-000000010@32") == lesson
    nothing = [learned(spec).words for spec in (f"{places / 'run'}:random", "resnet18:random")]
    assert nothing == [lineage.NOTHING] * 2
    assert learned("pixels:8").words == "learns from nothing"
    assert learned(str(places / "some.safetensors")).words == UNKNOWN


def test_what_a_run_began_with_and_who_taught_it_count(places, tmp_path):
    """Of shards that are gone, with weights of the run whose data are known."""
    config = {"data": "/gone/photos-shards", "init": str(places / "run")}
    run = make_run(tmp_path / "a", **config, method={"name": "moco"})
    lesson = learned(run)
    assert lesson.words == (
        "learned from photos-shards without labels (moco); begun from run, which "
        "learned from 18 images of stones/train without labels (swav)"
    )
    assert learned(f"{run}:init") == learned(str(places / "run"))
    assert overlap(lesson, *place_of(places / "stones")).by == BYTES
    assert overlap(lesson, *place_of(places / "walls")) is None
    method = {"name": "distill", "teacher": "timm:x:random", "experts": [str(places / "run")]}
    taught = learned(make_run(tmp_path / "b", data="/gone/photos-shards", method=method))
    assert "; taught by timm:x:random, which learned from nothing" in taught.words
    assert overlap(taught, *place_of(places / "stones")).by == BYTES
    assert learned(make_run(tmp_path / "c", data="/gone/x")).words == UNKNOWN


def test_images_are_known_again_by_their_bytes_wherever_they_lie(places, tmp_path):
    """The data set is a copy under another name, of which one test image was learned from."""
    shutil.copytree(places / "stones", tmp_path / "other")
    lesson = learned(str(places / "run"))
    found = overlap(lesson, *place_of(tmp_path / "other"))
    assert (found.by, found.train, found.test, found.looked_at) == (BYTES, 18, 0, (18, 12))
    assert found.words("ours", "other") == (
        "ours was trained on images of other (its data hold 18 of 18 training and none of 12 test images that "
        "were looked up, byte for byte), so its score there is not transfer"
    )
    image = next((tmp_path / "other" / "train").rglob("*.*"))
    shutil.copy(image, tmp_path / "other" / "test" / image.parent.name / f"z{image.name}")
    found = overlap(lesson, *place_of(tmp_path / "other"))
    assert (found.test, found.looked_at) == (1, (18, 13))
    assert found.words("ours", "other").endswith("so its score there is of images that it has seen")


def test_images_that_were_made_anew_are_known_by_their_folder_or_name(places, tmp_path):
    def lesson_of(name: str, *sources: Path):
        origin = lineage.Origin(tuple(map(str, sources)))
        return lineage.Learned(name, (origin,))

    stones = place_of(places / "stones")
    for source in (places / "stones" / "train", places / "stones", places):
        assert overlap(lesson_of("", source), *stones).by == FOLDER
    assert overlap(lesson_of("", places / "walls"), *stones) is None
    assert overlap(lesson_of("", Path("stones-train-shards")), *stones).by == NAME
    assert overlap(lesson_of("", Path("gravestones")), *stones) is None
    (tmp_path / "train").symlink_to(places / "walls")
    images = place_of(places / "walls")[1]
    common = DataPlace("train", "train", str(tmp_path / "train"), "yours", ("knn",), 30, 3)
    assert overlap(lesson_of("", places / "walls" / "train"), common, images).by == FOLDER
    assert overlap(lesson_of("", Path("/gone/train")), common, images) is None
    short = DataPlace("old", "old", str(tmp_path / "old"), "yours", ("knn",), 30, 3)
    assert overlap(lesson_of("", Path("my-old-shards")), short, images) is None
    assert "seems to have learned" in Overlap(NAME, "x").words("ours", "stones")


def test_weights_of_libraries_say_whose_labels_they_learned(places, tmp_path, monkeypatch):
    lesson = learned("torchvision:resnet18")
    assert lesson.words == "learned from ImageNet-1k with labels (torchvision’s IMAGENET1K_V1)"
    entry = DataPlace("imagenet", "ImageNet", "imagenet:/x", "ready", ("knn",), 9, 3)
    assert overlap(lesson, entry, place_of(places / "walls")[1]).by == FOLDER
    assert overlap(lesson, *place_of(places / "walls")) is None
    # A file is known by its content, by which torchvision names it.
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"weights")
    assert learned(f"torchvision:resnet18:{weights}").words == UNKNOWN
    digest = hashlib.sha256(b"weights").hexdigest()
    named = SimpleNamespace(url=f"https://x/resnet18-{digest[:8]}.pth")
    members = {"IMAGENET1K_V7": named, "DEFAULT": named}
    table = SimpleNamespace(__members__=members)
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda name: table)
    assert "torchvision’s IMAGENET1K_V7" in learned(f"torchvision:resnet18:{weights}").words


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("resnet18.a1_in1k", "learned from ImageNet-1k with labels (timm’s a1_in1k)"),
        ("vit_base_patch16_224.mae", f"{UNKNOWN}, but for timm’s tag mae"),
        ("resnet50.fb_swsl_ig1b_ft_in1k", "after other images, as the tag says)"),
    ],
)
def test_tags_of_timm_say_whether_they_ended_on_labels(network, words):
    pytest.importorskip("timm")
    assert learned(f"timm:{network}").words.endswith(words)
    assert learned(f"timm:{network}:/some/file").words == UNKNOWN
