"""COCO's values by cocoapi's own evaluation."""

import json

import numpy as np
import pytest


def official(truth: dict, results: list, kind: str) -> np.ndarray:
    """The twelve values of `kind`, `bbox` or `segm`; NaN where there is nothing to find."""
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    gold = coco.COCO()
    gold.dataset = json.loads(json.dumps(truth))
    gold.createIndex()
    evaluation = COCOeval(gold, gold.loadRes(json.loads(json.dumps(results))), kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.where(evaluation.stats < 0, np.nan, evaluation.stats)
