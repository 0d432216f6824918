"""Average precision, against COCO's own evaluation and by hand."""

import numpy as np
import pytest

from seer.eval.data.boxes import train_and_test
from seer.eval.data.masks import mask_of, runs_of
from seer.eval.data.objects import Annotated, Object, flat
from seer.eval.trained.detection.average_precision import (
    METRICS,
    average_precision,
    coco_scores,
    jackknifed,
    matches,
    opened,
    summary,
    voc_scores,
)
from seer.eval.trained.detection.cocofiles import Prediction, compressed, results_of, truth_of
from tests.kit import boxes
from tests.kit.cocoapi import official

pytest.importorskip("faster_coco_eval")


def guesses(images: Annotated, masks: bool) -> list[Prediction]:
    """Objects that are moved, lost, called by another class, and made up."""
    import torch

    rng = np.random.default_rng(3)
    predictions = []
    for i in range(len(images)):
        things = [images.objects.at(n) for n in images.objects.of(i)]
        found = np.array([t.box for t in things] * 2, np.float64).reshape(-1, 4)
        found += rng.normal(0, 3, found.shape)
        found = found[rng.random(len(found)) > 0.2]
        height, width = images.objects.sizes[i].tolist()
        found = np.clip(found, 0, [width, height, width, height])
        found = found[(found[:, 2:] > found[:, :2] + 1).all(1)]
        labels = rng.integers(0, len(images.classes), len(found))
        runs = None
        if masks:
            flags = torch.zeros(len(found), height, width, dtype=torch.bool)
            for flag, (left, top, right, bottom) in zip(flags, found.astype(int), strict=True):
                flag[top:bottom, left:right] = True
            runs = compressed(flags)
        predictions.append(Prediction(i, found, rng.random(len(found)), labels, runs))
    return predictions


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_values_are_those_of_cocoapi(tmp_path, kind):
    content = boxes.coco(tmp_path, "train", 6)
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][0]["segmentation"] = {
        "size": [96, 64],
        "counts": [100, 500, 96 * 64 - 600],
    }
    boxes.write(tmp_path / "train.json", content)
    boxes.coco(tmp_path, "val", 4, 1)
    images, _ = train_and_test(tmp_path)
    truth = truth_of(images, kind == "mask")
    results = results_of(guesses(images, kind == "mask"))
    ours = summary(*opened(truth, results), kind)
    theirs = official(truth, results, {"box": "bbox", "mask": "segm"}[kind])
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert 0 < ours[0] < 1


def test_what_is_found_exactly_is_worth_one_and_nothing_is_worth_none(tmp_path):
    images, _ = train_and_test(boxes.both(tmp_path, 5, 2))
    table = images.objects
    perfect = [
        Prediction(
            i,
            table.boxes[list(table.of(i))].astype(float),
            np.ones(2),
            table.labels[list(table.of(i))],
        )
        for i in range(len(images))
    ]
    values = {score.metric: score for score in coco_scores(images, perfect, "box", {})}
    assert values["box_AP"].value == pytest.approx(1)
    assert (values["box_AP"].low, values["box_AP"].high) == (pytest.approx(1), 1)
    assert "box_APl" not in values  # no object is as large
    assert [score.value for score in voc_scores(images, perfect, {})] == [pytest.approx(1)] * 2
    nothing = [Prediction(i, np.empty((0, 4)), np.empty(0), np.empty(0, int)) for i in range(5)]
    assert coco_scores(images, nothing, "box", {})[0].value == 0
    assert [score.value for score in voc_scores(images, nothing, {})] == [0, 0]


def test_average_precision_by_hand():
    """Right, wrong, right, wrong, right, of 4 objects: recall 1/4 at precision 1, 1/2 at 2/3, 3/4 at 3/5."""
    right = np.array([1, 0, 1, 0, 1])
    assert average_precision(right, 4, points=False) == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    # Recalls 0, .1, .2 | .3, .4, .5 | .6, .7 | .8, .9, 1.
    by_hand = (3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11
    assert average_precision(right, 4, points=True) == pytest.approx(by_hand)
    ignored = np.array([1, -1, 0, 1, -1, 0, 1])
    assert average_precision(ignored, 4, points=True) == pytest.approx(by_hand)


class Nowhere:
    fingerprint = ""

    def key(self, i: int) -> str:
        return f"{i}.png"


def one_image(*things: Object) -> Annotated:
    return Annotated(Nowhere(), flat([(100, 100)], [list(things)]), ["thing"], {})


def test_a_second_detection_is_wrong_and_a_difficult_object_counts_neither_way():
    images = one_image(
        Object(0, np.array([0, 0, 10, 10])), Object(0, np.array([50, 50, 60, 60]), difficult=True)
    )
    found = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [80, 80, 90, 90], [0, 0, 10, 4.9]], float
    )
    prediction = Prediction(0, found, np.array([0.9, 0.8, 0.7, 0.6, 0.95]), np.zeros(5, int))
    result = matches(images, [prediction], 0)
    # By score: too small an overlap; right; once more; difficult; nothing there.
    assert result.right.tolist() == [0, 1, 0, -1, 0]
    assert result.objects == {0: 1}
    assert voc_scores(images, [prediction], {})[1].value == pytest.approx(1 / 2)


def found_in(*rows: tuple[float, list[float]], image: int = 0) -> Prediction:
    """Detections of class 0: how sure, and the box."""
    boxes_of = np.array([box for _, box in rows], float).reshape(-1, 4)
    return Prediction(image, boxes_of, np.array([s for s, _ in rows]), np.zeros(len(rows), int))


def test_half_an_overlap_is_enough_and_a_box_across_the_corner_has_none():
    images = one_image(Object(0, np.array([0, 0, 10, 10])))
    across = [19, 19, 29, 29]  # 9 px away along both axes
    detections = found_in((0.9, across), (0.8, [0, 0, 10, 5]))
    assert matches(images, [detections], 0).right.tolist() == [0, 1]


def test_neither_crowds_nor_classes_without_objects_count():
    crowd = Object(0, np.array([50, 50, 90, 90]), crowd=True)
    table = flat([(100, 100)], [[Object(0, np.array([0, 0, 10, 10])), crowd]])
    images = Annotated(Nowhere(), table, ["thing", "other"], {})
    detections = found_in((0.9, [50, 50, 90, 90]), (0.8, [0, 0, 10, 10]))
    result = matches(images, [detections], 0)
    assert (result.right.tolist(), result.objects) == ([-1, 1], {0: 1})
    assert [score.value for score in voc_scores(images, [detections], {})] == [1, 1]


def test_intervals_leave_out_each_group_of_images_in_turn():
    """Of 21 images in 20 groups, two in one of them."""
    things = [[Object(0, np.array([0, 0, 10, 10]))] for _ in range(21)]
    images = Annotated(Nowhere(), flat([(100, 100)] * 21, things), ["thing"], {})
    sure = np.random.default_rng(0).random(21).tolist()
    left = [(0, 0.25, 1, 2.25, 7)[i % 5] for i in range(21)]  # the last is too far away
    predictions = [found_in((sure[i], [left[i], 0, 10, 10]), image=i) for i in range(21)]
    truth = truth_of(images, False)
    scored = coco_scores(images, predictions, "box", {})[0]
    voc = voc_scores(images, predictions, {})[1]
    without, without_voc = [], []
    for group in range(20):
        kept = [i for i in range(21) if (i + 1) % 20 != group]
        gold = {**truth, "images": [truth["images"][i] for i in kept]}
        gold["annotations"] = [a for a in truth["annotations"] if a["image_id"] - 1 in kept]
        results = results_of([predictions[i] for i in kept])
        without.append(summary(*opened(gold, results), "box")[0])
        kept = [i for i in range(21) if i % 20 != group]
        part = Annotated(
            Nowhere(), flat([(100, 100)] * len(kept), things[: len(kept)]), ["thing"], {}
        )
        own = [predictions[i]._replace(image=place) for place, i in enumerate(kept)]
        without_voc.append(voc_scores(part, own, {})[1].value)
    for score, values in ((scored, without), (voc, without_voc)):
        half = 1.959964 * np.sqrt(19 / 20 * np.square(values - np.mean(values)).sum())
        assert half > 0.01
        assert score.low == pytest.approx(max(0, score.value - half), abs=1e-6)
        assert score.high == pytest.approx(min(1, score.value + half), abs=1e-6)


def test_truth_and_results_are_as_coco_writes_them():
    """Boxes as x, y, width, height; areas of the owner; what is difficult, or has no mask where masks
    count, as crowds.
    """
    import torch

    ring = np.array([[3, 2], [9, 2], [9, 12]], np.float32)
    box = np.array([3, 2, 9, 12])
    images = one_image(
        Object(0, box, area=30, polygons=(ring,)), Object(0, box, difficult=True, area=60), Object(0, box, area=60)
    )  # fmt: skip
    plain, masked = (truth_of(images, masks)["annotations"] for masks in (False, True))
    assert [row["bbox"] for row in plain] == [[3, 2, 6, 10]] * 3
    assert [row["area"] for row in plain] == [30, 60, 60]
    assert [row["iscrowd"] for row in plain] == [0, 1, 0]
    assert [row["iscrowd"] for row in masked] == [0, 1, 1]
    assert masked[0]["segmentation"] == [[3, 2, 9, 2, 9, 12]]
    assert masked[2]["segmentation"] == [[3, 2, 9, 2, 9, 12, 3, 12]]  # round the box
    flags = torch.zeros(1, 20, 30, dtype=torch.bool)
    flags[0, 2:12, 3:9] = True
    (row,) = results_of(
        [Prediction(4, box[None].astype(float), np.ones(1), np.ones(1, int), compressed(flags))]
    )
    assert (row["image_id"], row["category_id"], row["bbox"]) == (5, 2, [3, 2, 6, 10])
    runs = runs_of(row["segmentation"]["counts"], 20, 30)
    np.testing.assert_array_equal(mask_of(runs, 20, 30), flags[0].numpy())


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).random(30)
    left_out = (values.sum() - values) / 29
    low, high = jackknifed(float(values.mean()), left_out)
    error = values.std(ddof=1) / np.sqrt(30)
    assert high - low == pytest.approx(2 * 1.959964 * error, rel=1e-5)
    assert jackknifed(0.3, np.array([0.3])) == (0.0, 1.0)
    low, high = jackknifed(0.9, np.array([0.5, 0.9, 0.7]))
    assert (low, high) == (pytest.approx(0.9 - 1.959964 * np.sqrt(2 * 0.08 / 3)), 1.0)


def test_the_twelve_values_have_names():
    assert len(METRICS) == 12
