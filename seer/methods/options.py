"""What can be said of our methods; apart from what they do, which needs torch."""

from dataclasses import dataclass

from seer.schema import SHARE, TEMPERATURE, Choice, Integer, ListOf, option
from seer.steps import PLACE

WIDTHS = ListOf(Integer(1, 2**17), 16, 1)  # of an MLP: hidden layers and output


@dataclass
class SwAVConfig:
    """The defaults are the paper's for ResNet-50.

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        head_bn_out: put BatchNorm on its output, which spreads small batches over the sphere from the first step.
        prototypes: K. A loss that stays at ln K has learned nothing: lower `epsilon`, or raise `freeze`.
        temperature: of the softmax that predicts.
        epsilon: of the Sinkhorn assignments that are predicted; smaller is sharper.
        iterations: of Sinkhorn.
        assign: which of the large crops give assignments.
        queue: images remembered, over all ranks, to help assign small batches; 0 for none. They count once the queue is
            full.
        queue_from: the step from which images are remembered, or below 1 a share of the run: so the first ones to count
            come from this step, as in SwAV's code, whose queue is made then.
        freeze: steps for which the prototypes stay as they were initialised, or below 1 a share of the run.
    """

    name: str = option("swav", Choice("swav"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = True
    head_bn_out: bool = False
    prototypes: int = option(3000, Integer(2, 10**6))
    temperature: float = option(0.1, TEMPERATURE)
    epsilon: float = option(0.05, TEMPERATURE)
    iterations: int = option(3, Integer(1, 1000))
    assign: list[int] = option([0, 1], ListOf(Integer(0, 63), 64, 1, distinct=True))
    queue: int = option(0, Integer(0, 10**7))
    queue_from: int | float = option(0, PLACE)
    freeze: int | float = option(313, PLACE)


@dataclass
class SimCLRConfig:
    """The defaults are the paper's for ResNet-50, with BatchNorm on the output as in its code.

    Attributes:
        head: hidden and output widths of the projection head.
        head_bn: put BatchNorm on the head's hidden layers.
        head_bn_out: put BatchNorm on the head's output.
        head_bn_shift: train a shift of the output's BatchNorm, which has none in SimCLR's code.
        temperature: of the similarities.
    """

    name: str = option("simclr", Choice("simclr"))
    head: list[int] = option([2048, 128], WIDTHS)
    head_bn: bool = True
    head_bn_out: bool = True
    head_bn_shift: bool = False
    temperature: float = option(0.1, TEMPERATURE)


@dataclass
class BYOLConfig:
    """The defaults are the paper's for ResNet-50 and 1000 epochs (0.99 is its `momentum` for 100
    and 300).

    Attributes:
        head: hidden and output widths of the projection head.
        predictor: those of the predictor, ending in the same output width.
        momentum: of the teacher at the first step; it rises to 1 along a cosine.
    """

    name: str = option("byol", Choice("byol"))
    head: list[int] = option([4096, 256], WIDTHS)
    predictor: list[int] = option([4096, 256], WIDTHS)
    momentum: float = option(0.996, SHARE)
