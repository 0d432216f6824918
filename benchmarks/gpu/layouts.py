"""Which format and which order in memory a network is fastest in, with cuDNN's choice of algorithms
by rule and by trial.
"""

from collections.abc import Iterator
from typing import Any

import torch
from run import Options
from step import CASES, Case, measured

ORDERS = {"channels last": "true", "contiguous": "false"}
FORMATS = ("bf16", "fp16")


def rows(options: Options) -> Iterator[dict[str, Any]]:
    resnet, regnety_032, *_, regnety_160, _ = CASES
    for case in (regnety_032, resnet, regnety_160):
        for by_trial in (False, True):
            torch.backends.cudnn.benchmark = by_trial
            for precision in FORMATS:
                for order, switch in ORDERS.items():
                    yield row(case, precision, order, switch, by_trial, options)
        if options.small:
            return


def row(
    case: Case, precision: str, order: str, switch: str, by_trial: bool, options: Options
) -> dict[str, Any]:
    name = f"{precision} {order}{' by trial' if by_trial else ''}"
    overrides = [f"precision={precision}", f"parallel.channels_last={switch}"]
    return measured(case, name, overrides, options)
