"""The symptoms of a collapse: by which numbers each is known, what it means, what helps.
`docs/health.md` has them all.

`COLLAPSE` is what the embeddings of every learner may suffer from; `Learner.symptoms` are a
learner's own. The thresholds (`seer.rundir.thresholds`) are far from what healthy runs show; where a
number depends on the batch or on the number of prototypes K, so does its threshold.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from seer.rundir.thresholds import LEAST_RANK, LEAST_SPREAD

Values = Mapping[str, float]


@dataclass(frozen=True)
class Symptom:
    """A symptom.

    Attributes:
        needs: the metrics that it is told from; a method without them cannot have it.
        test: whether the values of these metrics show it; `batch`, the images in a batch, is among the values.
        meaning: one line, with places for values.
        remedy: what to change, one line.
    """

    name: str
    needs: tuple[str, ...]
    test: Callable[[Values], bool]
    meaning: str
    remedy: str

    def shown(self, values: Values) -> bool:
        known = all(math.isfinite(values.get(name, math.nan)) for name in self.needs)
        return known and self.test(values)

    def why(self, values: Values) -> str:
        return self.meaning.format(**values)


COLLAPSE = (
    Symptom(
        "collapse",
        ("embedding_std",),
        lambda v: v["embedding_std"] < LEAST_SPREAD,
        "all images get nearly the same embedding (embedding_std {embedding_std:.2g}; spread all round it is 1)",
        "lower schedule.peak or lengthen its warm-up; with prototypes, lower method.epsilon and raise method.freeze",
    ),
    Symptom(
        "dimensional_collapse",
        ("effective_rank",),
        lambda v: v["effective_rank"] < LEAST_RANK,
        "embeddings use {effective_rank:.1f} effective dimensions",
        "lower schedule.peak or lengthen its warm-up; for small batches, method.head_bn_out=true",
    ),
)
