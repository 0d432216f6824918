import pytest
import torch
import torch.nn.functional as F
from lightly.models.modules import SimCLRProjectionHead, SwaVProjectionHead
from torch import nn

from seer.errors import InputError
from seer.methods.heads import MLP, Prototypes
from tests.methods.tiny import build


def kinds(head: nn.Sequential) -> str:
    return " ".join(f"{type(m).__name__}" for m in head)


def test_heads_of_the_papers():
    assert kinds(MLP(2048, [2048, 128])) == "Linear BatchNorm1d ReLU Linear"
    seer = MLP(888, [64, 64, 32], batchnorm=False)
    assert kinds(seer) == "Linear ReLU Linear ReLU Linear"
    assert [tuple(m.weight.shape) for m in seer if isinstance(m, nn.Linear)] == [
        (64, 888),
        (64, 64),
        (32, 64),
    ]
    assert (
        kinds(MLP(8, [8, 4], batchnorm_out=True, bias_out=False))
        == "Linear BatchNorm1d ReLU Linear BatchNorm1d"
    )
    assert kinds(MLP(8, [4])) == "Linear"


def test_same_numbers_as_lightlys_heads():
    x = torch.randn(8, 10)
    for theirs, ours in [
        (SwaVProjectionHead(10, 16, 6), MLP(10, [16, 6])),
        (SimCLRProjectionHead(10, 16, 6), MLP(10, [16, 6], batchnorm_out=True, bias_out=False)),
    ]:
        linears = [m for m in theirs.layers if isinstance(m, nn.Linear)]
        for mine, layer in zip([m for m in ours if isinstance(m, nn.Linear)], linears, strict=True):
            mine.weight.data.copy_(layer.weight)
            if mine.bias is not None:
                mine.bias.data.copy_(
                    layer.bias if layer.bias is not None else torch.zeros_like(mine.bias)
                )
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("widths", [[], [16, 0]])
def test_impossible_widths(widths):
    with pytest.raises(InputError, match=r"method\.head"):
        build("simclr", head=widths)


def test_prototypes_have_length_one_and_stay_in_fp32():
    prototypes, z = Prototypes(6, 20), torch.randn(5, 6)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(20))
    expected = F.linear(z, prototypes.weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypes(z), expected)
    assert prototypes(z.bfloat16()).dtype == torch.float32

    weight = prototypes.weight
    weight.data.mul_(3)
    prototypes.normalize()
    assert prototypes.weight is weight  # the optimizer's state hangs on it
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(20))
