"""`seer eval normals`: what it learns against plain loops and by hand, mirrors, what is scored, and what
cannot be, in one line.
"""

import math
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from seer.config import layer, parse_overrides
from seer.errors import InputError
from seer.eval.data import surfaces
from seer.eval.data.mapfiles import HOLES, NOT_NORMAL
from seer.eval.data.surfaces import train_and_test
from seer.eval.dense.surface_errors import angles_between
from seer.eval.literature import beside
from seer.eval.task import _is_protocols_own, evaluate
from seer.eval.tasks import TASKS
from seer.eval.trained.dense import normals as module
from seer.eval.trained.dense.normals import (
    OWN,
    PUBLISHED,
    SurfaceNormals,
    configure,
    surface_normals,
)
from seer.eval.trained.dense.options import NormalsConfig
from seer.eval.trained.dense.pairbatches import PairCutter
from seer.report.html import write_report
from tests.kit import rooms

MODEL = "regnety_002:random"
QUICK = [
    "batch_size=2",
    "short_sides=[48, 64]",
    "long_side=96",
    "test_size=48",
    "width=16",
    "clusters=6",
    "loader.workers=0",
    "log.every=1",
    "log.tensorboard=false",
    "device=cpu",
]


@pytest.fixture(autouse=True)
def forget():
    surfaces._read.cache_clear()


def known(seed: int = 0) -> torch.Tensor:
    """Unit normals `(2, 4, 5, 3)`, with holes and with what is none."""
    vectors = torch.randn(2, 4, 5, 3, dtype=torch.float64, generator=torch.manual_seed(seed))
    vectors /= vectors.norm(dim=-1, keepdim=True)
    vectors[0, 1, 2] = torch.nan
    vectors[1, 3] = torch.inf
    return vectors


def centres(count: int = 6) -> np.ndarray:
    vectors = np.random.default_rng(9).normal(size=(count, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_classes_are_learned_by_the_nearest_cluster():
    normals = known()
    codebook = centres()
    logits = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    total, count = 0.0, 0
    for b, y, x in np.ndindex(2, 4, 5):
        normal = normals[b, y, x].numpy()
        if np.isfinite(normal).all():
            nearest = min(range(6), key=lambda k: np.linalg.norm(codebook[k] - normal))
            total -= math.log(float(logits[b, :, y, x].softmax(0)[nearest]))
            count += 1
    loss, pixels = SurfaceNormals(codebook).losses(logits, normals)
    assert (float(loss), int(pixels)) == (pytest.approx(total), count)
    assert count == 40 - 6


def test_directions_are_learned_by_their_cosine_and_holes_have_no_gradient():
    normals = known()
    outputs = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    total = 0.0
    for b, y, x in np.ndindex(2, 4, 5):
        normal = normals[b, y, x].tolist()
        if math.isfinite(normal[0]):
            guess = outputs[b, :, y, x].tolist()
            dot = sum(p * q for p, q in zip(guess, normal, strict=True))
            total += 1 - dot / math.hypot(*guess)
    task = SurfaceNormals(None)
    loss, pixels = task.losses(outputs, normals)
    assert (float(loss.detach()), int(pixels)) == (pytest.approx(total), 34)
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    assert not outputs.grad[1, :, 3].any()
    assert outputs.grad[0, :, 0].any()
    for each in (task, SurfaceNormals(np.eye(3))):
        loss, pixels = each.losses(outputs, torch.full_like(normals, torch.nan))
        assert float(loss.detach()) == int(pixels) == 0


def test_guesses_are_unit_normals():
    direct = SurfaceNormals(None)
    outputs = torch.tensor([3.0, 0.0, -4.0]).reshape(1, 3, 1, 1)
    guess = direct.decided(direct.activated(outputs)[0])
    assert guess.shape == (1, 1, 3)
    assert guess[0, 0].tolist() == pytest.approx([0.6, 0, -0.8])
    classes = SurfaceNormals(np.array([[1.0, 0, 0], [0, 0, -1.0]]))
    logits = torch.tensor([0.0, math.log(2)]).reshape(1, 2, 1, 1)
    wanted = np.array([1, 0, -2]) / math.sqrt(5)
    guess = classes.decided(classes.activated(logits)[0])
    assert guess[0, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def test_a_mirror_image_has_mirrored_normals_in_training_and_in_testing(tmp_path):
    """Places are exchanged, and x changes its sign: what looks to the right now looks to the left."""
    made = rooms.pairs(tmp_path, 6)
    train, _ = train_and_test(tmp_path)
    task = SurfaceNormals(None)
    batches = {}
    for flip in (False, True):
        config = NormalsConfig(model="", data="", short_sides=[48], long_side=64, flip=flip)
        cutter = PairCutter(train, task, config, [0.5] * 3, [0.25] * 3, 16)
        ids = np.arange(5)
        plan = cutter.plan([(48, 64)] * 5, np.zeros(5, np.int64), ids)
        for b in range(5):
            plan.cut(b, train.image(b))
        batches[flip] = (plan.flips, plan.batch())
    flips, plain = batches[False]
    _, mirrored = batches[True]
    assert 0 < flips.sum() < 5
    for b in range(5):
        targets, images = mirrored.targets[b].numpy(), mirrored.images[b].numpy()
        if flips[b]:
            assert np.array_equal(images, plain.images[b].numpy()[:, ::-1])
            assert np.allclose(targets, plain.targets[b].numpy()[:, ::-1] * [-1, 1, 1])
            # The left wall of the mirror image looks to the right, as left walls do.
            assert targets[24, 2, 0] > 0.5 > -0.5 > targets[24, -2, 0]
        else:
            assert np.array_equal(targets, plain.targets[b].numpy())
    truth = made[0].normals
    seen = torch.from_numpy(np.ascontiguousarray(truth[:, ::-1] * [-1, 1, 1])).movedim(-1, 0)[None]
    back = task.unmirrored(seen.flip(-1))[0]
    assert np.abs(task.decided(back) - truth).max() < 1e-6


def test_clusters_are_those_of_the_data_or_our_own(tmp_path):
    rooms.pairs(tmp_path, 6)
    train, test = train_and_test(tmp_path)
    config = NormalsConfig(model="", data="", clusters=4)
    task = surface_normals(config, train, test)
    assert (task.channels, task.origin, task.words) == (4, OWN, "normals as 4 classes")
    assert np.array_equal(task.codebook, surface_normals(config, train, test).codebook)
    every = np.concatenate([train.normals(i).reshape(-1, 3) for i in range(5)])
    nearest = angles_between(every[:, None], np.broadcast_to(task.codebook, (len(every), 4, 3)))
    assert nearest.min(1).mean() < 8
    train.codebook = centres(4)
    assert np.array_equal(surface_normals(config, train, test).codebook, centres(4))
    assert surface_normals(config, train, test).origin == PUBLISHED
    train.codebook = centres(5)
    assert surface_normals(config, train, test).origin == OWN
    for i in range(6):
        flat = np.broadcast_to(np.float32([0, 0, -1]), (48, 64, 3))
        rooms.picture(tmp_path / f"normals/{i}.png", rooms.colours(flat))
    train.codebook = None
    module._clusters_of.cache_clear()
    with pytest.raises(InputError, match="1 different normals, and 4 clusters; use fewer"):
        surface_normals(config, train, test)


@pytest.mark.parametrize("output", ["classes", "direct"])
def test_it_writes_scores_and_a_picture(tmp_path, output):
    data = rooms.split(tmp_path / "data", 4, 3)
    path = data / "test/normals/1.png"
    normals = cv2.imread(str(path))
    normals[:4] = 0
    normals[4] = 230  # of no unit length
    cv2.imwrite(str(path), normals)
    run_dir = tmp_path / "run"
    options = [*QUICK, f"output={output}", f"run_dir={run_dir}", "steps=2", "test_flip=true"]
    rows = evaluate("normals", MODEL, data, options, tmp_path / "results.jsonl")
    by_metric = {row["metric"]: row for row in rows}
    assert [row["metric"] for row in rows] == [
        "within_11.25",
        "within_22.5",
        "within_30",
        "median",
        "mean",
        "rms",
    ]
    assert [row["metric"] for row in rows if row["headline"]] == ["within_11.25"]
    assert by_metric["mean"]["title"] == "Surface normals mean error"
    assert 0 < by_metric["mean"]["value"] < by_metric["rms"]["value"] < 180
    details = by_metric["mean"]["details"]
    assert details["not_scored"] == {HOLES: 4 * 64, NOT_NORMAL: 64}
    assert details["pixels"] == 3 * 48 * 64 - 5 * 64
    assert details["normals"] == "as given"
    assert details.get("clusters") == (OWN if output == "classes" else None)
    assert by_metric["mean"]["options"]["output"] == output
    picture = cv2.imread(str(run_dir / "images/maps.png"))
    assert picture.shape[1] > 600
    page = write_report(run_dir).read_text()
    assert "Dense predictions" in page


@pytest.mark.slow
@pytest.mark.parametrize("output", ["classes", "direct"])
def test_it_learns_which_wall_is_which(tmp_path, output):
    data = rooms.split(tmp_path / "data", 12, 4)
    options = [*QUICK, f"output={output}", f"run_dir={tmp_path / 'run'}", "steps=60", "flip=true"]
    options += ["freeze=0", "batchnorm=sync", "head=upernet", "batch_size=4", "schedule.peak=0.1"]
    rows = evaluate("normals", MODEL, data, options, tmp_path / "results.jsonl")
    values = {row["metric"]: row["value"] for row in rows}
    # Always naming the mean of both walls is wrong by 37 degrees.
    assert values["mean"] < 25
    assert values["within_30"] > 0.6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data=elsewhere"], "data=: it is given by --data"),
        (["clusters=1"], "clusters"),
        (["output=angles"], "output"),
        (["cluster=3"], "did you mean 'clusters'"),
        (["batch_size=16"], "4 training images are fewer than one batch"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, overrides, message):
    data = rooms.split(tmp_path / "data", 4, 1)
    with pytest.raises(InputError, match=message) as error:
        configure("normals", MODEL, str(data), [*QUICK, *overrides])
    assert "\n" not in str(error.value)


def test_depth_without_a_camera_and_no_known_pixel_are_one_line(tmp_path):
    rooms.frames(tmp_path / "film", 6)
    (tmp_path / "film/camera-intrinsics.txt").unlink()
    with pytest.raises(InputError, match="has depth and no camera-intrinsics"):
        configure("normals", MODEL, str(tmp_path / "film"), QUICK)
    rooms.pairs(tmp_path / "pairs", 6)
    rooms.picture(tmp_path / "pairs/normals/5.png", np.zeros((48, 64, 3), np.uint8))
    options = [*QUICK, "steps=1", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(InputError, match="no test image has a normal"):
        evaluate("normals", MODEL, tmp_path / "pairs", options, tmp_path / "results.jsonl")
    assert not (tmp_path / "run").exists()  # before the work
    for i in range(5):
        rooms.picture(tmp_path / f"pairs/normals/{i}.png", np.zeros((48, 64, 3), np.uint8))
    surfaces._read.cache_clear()
    with pytest.raises(InputError, match="no training image has a normal"):
        configure("normals", MODEL, str(tmp_path / "pairs"), QUICK)


def test_published_values_stand_beside_the_published_normals_alone(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    sizes = {"train": len(rooms.TRAIN), "test": len(rooms.TEST)}
    monkeypatch.setattr(surfaces, "NYU", replace(surfaces.NYU, sizes=sizes))
    for normals, overrides, own in (
        ("png", [], True),
        ("png", ["width=64"], False),
        ("", [], False),
    ):
        shutil.rmtree(tmp_path / "nyu", ignore_errors=True)
        surfaces._read.cache_clear()
        rooms.nyu(tmp_path / "nyu", normals)
        data = str(tmp_path / "nyu")
        train, _ = train_and_test(data)
        given = [layer({"model": MODEL, "data": data})]
        given.append(parse_overrides(["protocol=ericsson", *overrides]))
        config = TASKS["normals"].resolve(*given)
        assert (config.steps, config.output_stride, config.optim.larc) == (13500, 8, False)
        named = bool(train.dataset) and _is_protocols_own("normals", config, train)
        assert named == own
    (value,) = [
        r.value for r in beside("normals", "ericsson", "nyuv2", "within_11.25") if r.model == "BYOL"
    ]
    assert value == pytest.approx(0.2923)
