"""What methods with prototypes suffer from, told from `swav.assignment_metrics`."""

import math

from seer.engine.symptoms import Symptom
from seer.rundir.thresholds import CHANCE_MARGIN, FLATTEST, LEAST_PERPLEXITY, MOST_UNEQUAL

PROTOTYPES = (
    Symptom(
        "loss_at_chance",
        ("loss", "log_prototypes"),
        lambda v: abs(v["loss"] / v["log_prototypes"] - 1) < CHANCE_MARGIN,
        "the loss {loss:.3f} is ln K = {log_prototypes:.3f}: no image is told from another",
        "lower method.epsilon (0.03), raise method.freeze, try method.head_bn=false or easier crops; a queue that has "
        "just begun may be too long",
    ),
    Symptom(
        "flat_assignments",
        ("assignment_entropy", "log_prototypes"),
        lambda v: v["assignment_entropy"] > FLATTEST * v["log_prototypes"],
        "images are assigned to all prototypes alike (entropy {assignment_entropy:.2f} nats of {log_prototypes:.2f})",
        "lower method.epsilon (0.05, 0.03, 0.02)",
    ),
    Symptom(
        "unequal_prototypes",
        ("sinkhorn_imbalance",),
        lambda v: v["sinkhorn_imbalance"] > MOST_UNEQUAL,
        "Sinkhorn leaves prototypes unequal: {sinkhorn_imbalance:.0%} of the samples would have to change theirs",
        "raise method.iterations (10) or method.epsilon",
    ),
    Symptom(
        "few_prototypes",
        ("perplexity", "log_prototypes"),
        lambda v: (
            v["perplexity"] < LEAST_PERPLEXITY * min(math.exp(v["log_prototypes"]), v["batch"])
        ),
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
