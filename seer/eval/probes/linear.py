"""Linear probe: softmax regression on frozen features by SGD, several learning rates and weight
decays side by side in one pass.

They are chosen, where there are several, on the owners' validation images, or on a held-out part of the
training images; the test images are looked at once, at the end.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from seer.data.crops.multicrop import BOX_UNIFORMS, train_crop
from seer.data.hashing import uniform
from seer.data.labelled import Labelled
from seer.distributed import pick_device
from seer.engine.schedule import effective, value
from seer.errors import InputError
from seer.eval.probes.features import (
    check_finite,
    extract,
    frozen,
    in_threads,
    taming,
    to_input,
    watch,
)
from seer.eval.probes.holdout import choosing
from seer.eval.probes.options import LinearConfig
from seer.eval.probes.together import goes_on
from seer.eval.scores import Score, accuracy, chance
from seer.interop.models import Model
from seer.schema import check_options

logger = logging.getLogger("seer.eval")

REMEDY = "give smaller lrs"

Setting = tuple[float, float]  # a learning rate and a weight decay

# Epoch → batches of (features (B, D), labels (B,)).
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


def run(model: Model, train: Labelled, test: Labelled, config: LinearConfig) -> list[Score]:
    """Top-1 (and from ten classes on top-5) accuracy on `test`, as `top1`; with augmentation as
    `top1_augmented`.

    Raises:
        InputError: an option is wrong, or training diverged at every learning rate.
    """
    check_options(config)
    check_settings(settings_of(config), len(train), config)
    features = extract(model, train, config, "training images")
    test_features = extract(model, test, config, "test images")
    if not goes_on():
        return []
    scale = scaling(features, config)
    features = scale(features)
    classifier = trained(model, train, features, scale, config)
    outputs = classifier.outputs(test_features)
    details = classifier.details
    truth = torch.from_numpy(test.labels)

    ranked = outputs.argsort(dim=1, descending=True)
    scores = []
    for n in [1, 5] if len(train.classes) >= 10 else [1]:
        metric, title = (
            (f"top{n}_augmented", f"top-{n}, augmented")
            if config.augment
            else (f"top{n}", f"top-{n}")
        )
        scores.append(
            accuracy(
                metric,
                title,
                (ranked[:, :n] == truth[:, None]).any(1),
                details,
                headline=n == 1,
                by_chance=chance(truth, n),
            )
        )
    return scores


@dataclass
class Classifier:
    """A trained head, and what goes before it.

    Attributes:
        head: `(1, classes, D + 1)`, on the device of the options.
        scale: of features.
        setting: the rate and decay that were taken.
        details: what a result says of how they were chosen.
    """

    head: Tensor
    scale: Callable[[Tensor], Tensor]
    setting: Setting
    details: dict[str, Any]

    def outputs(self, features: Tensor) -> Tensor:
        """Logits `(N, classes)` of features `(N, D)`, on the CPU. Raises `InputError` if they are not finite."""
        outputs = logits(self.head, self.scale(features))
        if not is_finite(self.head, outputs).all():
            raise InputError(
                f"linear: its rate {self.setting[0]:g} diverged on all training images; {REMEDY}"
            )
        return outputs[:, 0]


def trained(
    model: Model,
    train: Labelled,
    features: Tensor,
    scale: Callable[[Tensor], Tensor],
    config: LinearConfig,
) -> Classifier:
    """The classifier of training images, its rate and decay chosen where there are several.

    Args:
        features: theirs, scaled, `(N, D)`.

    Raises:
        InputError: training diverged at every learning rate.
    """
    settings = settings_of(config)
    labels = torch.from_numpy(train.labels)
    device = pick_device(config.device)

    def probe(rows: Tensor, settings: list[Setting]) -> Tensor:
        if config.augment:
            batches = augmented_batches(model, train, rows, scale, config)
        else:
            batches = cached_batches(features[rows].to(device), labels[rows].to(device), config)
        return fit(batches, len(rows), features.shape[1], len(train.classes), settings, config)

    best = 0
    details = details_of(settings, best)
    if config.holdout:
        kept, held, rule = choosing(train, config.holdout, config.seed)
        heads = probe(kept, settings)
        best, details = choose(heads, features[held], labels[held], settings)
        details["chosen_on"] = rule
    if config.refit or not config.holdout:
        heads = probe(torch.arange(len(train)), [settings[best]])
        head = heads[:1]
    else:
        head = heads[best : best + 1]
    return Classifier(head, scale, settings[best], details)


def settings_of(config: LinearConfig) -> list[Setting]:
    return list(product(config.lrs, config.weight_decays))


def check_settings(settings: list[Setting], samples: int, config: LinearConfig) -> None:
    """Raise `InputError` for a schedule that cannot be, and for several settings of which none could
    be chosen.
    """
    if not config.holdout and len(settings) > 1:
        raise InputError(
            f"holdout=0: nothing is held out to choose by among {len(settings)} settings; give one of lrs and "
            "one of weight_decays, or a holdout above 0"
        )
    factor(0, total_steps(samples, config), config)


def choose(
    heads: Tensor, features: Tensor, labels: Tensor, settings: list[Setting]
) -> tuple[int, dict[str, Any]]:
    """The number of the head that does best on held-out images, of those that are finite; and what
    a result says of it.

    Raises:
        InputError: training diverged at every rate.
    """
    outputs = logits(heads, features)
    sound = is_finite(heads, outputs)
    unsound = [settings[number] for number in (~sound).nonzero()[:, 0].tolist()]
    diverged = list(dict.fromkeys(lr for lr, _ in unsound))
    named = ", ".join(f"{lr:g}" for lr in diverged)
    if not sound.any():
        raise InputError(f"linear: training diverged at every learning rate ({named}); {REMEDY}")
    if diverged:
        logger.warning(
            "linear: training diverged at the learning rates %s, which are left out", named
        )
    shares = (outputs.argmax(-1) == labels[:, None]).double().mean(0).where(sound, -1.0)
    best = int(shares.argmax())
    details = details_of(settings, best) | {"holdout_top1": round(float(shares[best]), 4)}
    return best, details | ({"diverged": diverged} if diverged else {})


def details_of(settings: list[Setting], best: int) -> dict[str, Any]:
    """What a result says of the setting that was taken."""
    lr, decay = settings[best]
    several_decays = len({decay for _, decay in settings}) > 1
    return {"lr": lr, "weight_decay": decay} if several_decays else {"lr": lr}


def is_finite(heads: Tensor, outputs: Tensor) -> Tensor:
    """`(R,)` bool: whether each head `(R, classes, D + 1)` and its logits `(N, R, classes)` are
    finite throughout.
    """
    return torch.isfinite(heads).flatten(1).all(1).cpu() & torch.isfinite(outputs).all(2).all(0)


def fit(
    batches: Batches,
    samples: int,
    dim: int,
    classes: int,
    settings: list[Setting],
    config: LinearConfig,
) -> Tensor:
    """Train one head per setting, from zero. The heads share batches and nothing else.

    Returns:
        `(R, classes, dim + 1)`: weights and, last, biases of the R heads, on the device of `config`.
    """
    device = pick_device(config.device)
    heads = torch.zeros(len(settings), classes, dim + 1, device=device)
    velocity = torch.zeros_like(heads)
    rates, decays = torch.tensor(settings, device=device).T[:, :, None, None]
    decays = decays.expand(-1, -1, dim + 1).clone()
    if not config.decay_bias:
        decays[:, :, -1] = 0.0
    total = total_steps(samples, config)
    step = 0
    epochs = -(-total // batches_per_epoch(samples, config))
    for epoch in watch(range(epochs), epochs, "linear probe", "epochs"):
        for features, labels in islice(batches(epoch), total - step):
            x = with_one(features).to(device)
            target = F.one_hot(labels.to(device), classes).unsqueeze(1)
            # The gradient of the mean cross-entropy in the logits is softmax minus one-hot.
            error = (outputs_of(heads, x).softmax(-1) - target) / len(x)
            gradient = (error.flatten(1).T @ x).view_as(heads)
            gradient.addcmul_(heads, decays)
            velocity.mul_(config.momentum).add_(gradient)
            update = gradient.add_(velocity, alpha=config.momentum) if config.nesterov else velocity
            heads -= rates * factor(step, total, config) * update
            step += 1
    return heads


def batches_per_epoch(samples: int, config: LinearConfig) -> int:
    return -(-samples // config.sgd_batch)


def total_steps(samples: int, config: LinearConfig) -> int:
    """The updates of the weights."""
    return config.steps or config.epochs * batches_per_epoch(samples, config)


def factor(step: int, total: int, config: LinearConfig) -> float:
    """What the rates are multiplied by. Raises `InputError` for a schedule that cannot be."""
    return value(effective(config.schedule, config.sgd_batch, total), step, total)


def outputs_of(heads: Tensor, x: Tensor) -> Tensor:
    """Logits `(B, R, classes)` of `(B, dim + 1)`, all heads in one matrix product."""
    return (x @ heads.flatten(0, 1).T).unflatten(1, heads.shape[:2])


def with_one(x: Tensor) -> Tensor:
    """`(B, D)` → `(B, D + 1)`, the one that the bias multiplies."""
    return F.pad(x, (0, 1), value=1.0)


def logits(heads: Tensor, x: Tensor) -> Tensor:
    """Logits `(N, R, classes)` of features `(N, D)`, on the CPU."""
    return torch.cat(
        [outputs_of(heads, with_one(part).to(heads.device)).cpu() for part in x.split(4096)]
    )


def scaling(features: Tensor, config: LinearConfig) -> Callable[[Tensor], Tensor]:
    """What is done to features before they are classified, by those of the training images."""
    return standardizer(features) if config.standardize else torch.nn.Identity()


def standardizer(features: Tensor) -> Callable[[Tensor], Tensor]:
    """The map that gives each of these features mean 0 and deviation 1; constant ones are only
    shifted.
    """
    factor = taming(features.abs().amax(0))
    deviation, mean = torch.std_mean(features * factor, dim=0, correction=0)
    deviation = torch.where(deviation > 1e-6 * mean.abs() + 1e-12, deviation, 1.0)
    return lambda x: (x * factor - mean) / deviation


def cached_batches(features: Tensor, labels: Tensor, config: LinearConfig) -> Batches:
    """Shuffled batches of features that are already there."""
    return lambda epoch: ((features[i], labels[i]) for i in shuffled(len(labels), config, epoch))


def augmented_batches(
    model: Model,
    train: Labelled,
    rows: Tensor,
    scale: Callable[[Tensor], Tensor],
    config: LinearConfig,
) -> Batches:
    """Shuffled batches of features of random-resized crops and flips of the images `rows`, computed
    as needed.
    """
    backbone = frozen(model, config)
    device = pick_device(config.device)
    low, high = config.crop_scale
    slots = np.arange(BOX_UNIFORMS)

    def load(epoch: int, ids: np.ndarray) -> tuple[np.ndarray, Tensor]:
        draws = uniform(config.seed, epoch, ids[:, None], slots)
        crops = []
        for i, u in zip(ids.tolist(), draws, strict=True):
            image = train.image(i)
            crops.append(train_crop(image, model.size, u, (low, high)))
        stacked = np.stack(crops)
        return ids, torch.from_numpy(stacked)

    def embed(pixels: Tensor) -> Tensor:
        features = []
        for part in pixels.split(config.batch_size):
            inputs = to_input(model, part.to(device))
            features.append(backbone(inputs))
        return torch.cat(features).cpu()

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = [rows[i].numpy() for i in shuffled(len(rows), config, epoch)]
        load_batch = partial(load, epoch)
        for ids, pixels in in_threads(load_batch, order, config.threads):
            features = embed(pixels)
            check_finite(features, ids.tolist(), train.source.name, model)
            labels = train.labels[ids]
            yield scale(features), torch.from_numpy(labels)

    return batches


def shuffled(samples: int, config: LinearConfig, epoch: int) -> tuple[Tensor, ...]:
    """The rows of each batch of an epoch: every row once, the last batch possibly smaller."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    return torch.randperm(samples, generator=generator).split(config.sgd_batch)
