"""The symptoms of a collapse: by which numbers each is known, what it means, what helps. `docs/health.md` has them all.

The thresholds are far from what healthy runs show; where a number depends on the batch or on the number of prototypes
K, so does its threshold.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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


SYMPTOMS = (
    Symptom(
        "collapse",
        ("embedding_std",),
        lambda v: v["embedding_std"] < 0.05,
        "all images get nearly the same embedding (embedding_std {embedding_std:.2g}; spread all round it is 1)",
        "lower schedule.peak or lengthen its warm-up; with prototypes, lower method.epsilon and raise method.freeze",
    ),
    Symptom(
        "dimensional_collapse",
        ("effective_rank",),
        lambda v: v["effective_rank"] < 2,  # healthy runs begin with 4 or 5
        "embeddings use {effective_rank:.1f} effective dimensions",
        "lower schedule.peak or lengthen its warm-up; for small batches, method.head_bn_out=true",
    ),
    Symptom(
        "loss_at_chance",
        ("loss", "log_prototypes"),
        lambda v: abs(v["loss"] / v["log_prototypes"] - 1) < 0.01,
        "the loss {loss:.3f} is ln K = {log_prototypes:.3f}: no image is told from another",
        "lower method.epsilon (0.03), raise method.freeze, try method.head_bn=false or easier crops; a queue that has "
        "just begun may be too long",
    ),
    Symptom(
        "flat_assignments",
        ("assignment_entropy", "log_prototypes"),
        lambda v: v["assignment_entropy"] > 0.995 * v["log_prototypes"],
        "images are assigned to all prototypes alike (entropy {assignment_entropy:.2f} nats of {log_prototypes:.2f})",
        "lower method.epsilon (0.05, 0.03, 0.02)",
    ),
    Symptom(
        "unequal_prototypes",
        ("sinkhorn_imbalance",),
        lambda v: v["sinkhorn_imbalance"] > 0.5,
        "Sinkhorn leaves prototypes unequal: {sinkhorn_imbalance:.0%} of the samples would have to change theirs",
        "raise method.iterations (10) or method.epsilon",
    ),
    Symptom(
        "few_prototypes",
        ("perplexity", "log_prototypes"),
        lambda v: v["perplexity"] < 0.1 * min(math.exp(v["log_prototypes"]), v["batch"]),
        "a batch uses as many prototypes as {perplexity:.0f} equally popular ones would be",
        "raise method.iterations or batch_size, lower method.prototypes, or add a queue (method.queue)",
    ),
    Symptom(
        "empty_prototypes",
        ("prototypes_empty",),
        lambda v: v["prototypes_empty"] > 0,
        "{prototypes_empty:.0f} prototypes are out of every sample's reach",
        "raise method.epsilon: scores over it exceed what floating point can tell apart",
    ),
)
