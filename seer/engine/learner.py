"""The contract between what is trained and the engine: batches in, loss and metrics out.

A pretraining method, a finetuned classifier, a detector and a segmenter are the same thing to the
engine.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

from torch import Tensor, nn

from seer.engine.symptoms import Symptom


@dataclass(frozen=True)
class Step:
    """Where the run stands. `number` counts optimizer steps from 0; `epoch` is a float; `lr` is
    this step's rate.

    `measure` says whether anyone will look at the step's metrics: what is costly may be left out of
    the others. In a survey (`surveying`) no update follows: its batches are not to be remembered as
    the step's.
    """

    number: int
    total: int
    epoch: float = 0.0
    lr: float = 0.0
    measure: bool = True
    surveying: bool = False


@dataclass
class Output:
    """What one forward pass gives: a scalar loss to minimise, detached scalars to log, `(B, D)`
    detached embeddings.
    """

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    embeddings: Tensor | None = None


class Batch(Protocol):
    """One rank's share of a step's samples: crops, labelled crops, maps, boxes.

    Attributes:
        index: `(B,)` int64, the global sample ids.
    """

    @property
    def index(self) -> Tensor: ...

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Moved to a device, or its floating point numbers converted to a type."""

    def chunk(self, count: int) -> list[Self]:
        """Cut along the batch into `count` equal parts."""


B = TypeVar("B", bound=Batch)
Made = TypeVar("Made", bound=Batch, covariant=True)


class Batches(Protocol[Made]):
    """Where a run's batches come from.

    Attributes:
        name: what the user calls their data. identity: what these hash to. samples: how many there are.
        seen: fingerprint of the samples that this rank has delivered.
        wait_seconds: how long the consumer waited for the latest batch; `work_seconds`: how long its parts took.
    """

    name: str
    identity: str
    samples: int
    seen: int
    wait_seconds: float
    work_seconds: dict[str, float]

    def iterate(self, start: int, stop: int, skipped: Collection[int] = ()) -> Iterator[Made]:
        """This rank's batches of the steps start … stop - 1, in order, but for the skipped."""

    def survey(self, epoch: int) -> Iterator[Made]:
        """This rank's batches of one pass over all samples, as they are in this epoch, that is
        neither counted nor entered in the ledger. All ranks have equally many, and equally large
        ones; some samples may come twice.
        """


Survey = Callable[[], Iterator[tuple[B, Output]]]  # a pass; see `Learner.before_epoch`


class Learner(nn.Module, Generic[B]):
    """What is trained. Knows neither the engine nor how its parameters are sharded.

    It must be buildable on the `meta` device: `reset_parameters()` (re)initialises everything that
    is its own, backbone included. State that survives a checkpoint is parameters, buffers and banks
    (`engine.bank`).

    A step that is not finite is not applied. So `forward` changes no buffer but BatchNorm's running
    statistics, which the engine restores; queues, banks and teachers move in `after_update`.

    Attributes:
        symptoms: of a collapse, besides those of its embeddings that the engine knows.
        new_targets: whether `before_epoch` changes what losses are measured against, so that those of the last epoch
            say nothing of the next one's.
    """

    backbone: nn.Module
    symptoms: ClassVar[tuple[Symptom, ...]] = ()
    new_targets: ClassVar[bool] = False

    def reset_parameters(self) -> None:
        for child in self.children():
            child.reset_parameters()  # type: ignore[operator]

    def forward(self, batch: B, step: Step) -> Output:
        raise NotImplementedError

    def rates(self) -> dict[str, float]:
        """Factors on the rate, by the beginning of parameters' names; of all others it is 1."""
        return {}

    def after_load(self) -> None:
        """Called when the backbone's weights have come from elsewhere, before the first step
        (teachers copy them).
        """

    def before_epoch(self, step: Step, survey: Survey[B]) -> None:
        """Called before the first step of each epoch (DeepCluster's k-means).

        `survey()` is a pass over all samples: this rank's batches and what `forward` gives for each
        of them, without gradients. It leaves no trace but in banks.
        """

    def after_backward(self, step: Step) -> None:
        """Called when gradients are final, before clipping and the update (frozen prototypes)."""

    def after_update(self, step: Step) -> None:
        """Called after the optimizer's update (EMA teacher, renormalised prototypes, queues)."""
