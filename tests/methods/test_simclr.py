import pytest
import torch
from lightly.loss import NTXentLoss

from seer.engine.learner import Step
from seer.errors import InputError
from tests.methods.tiny import build, make_views, train_step


def test_loss_is_lightlys():
    method, views = build("simclr").double(), make_views(batch=5, small=0, dtype=torch.float64)
    z0, z1 = method.head(method.backbone(views.crops[0].flatten(0, 1))).unflatten(0, (2, -1))
    output = method(views, Step(0, 10))
    torch.testing.assert_close(output.loss, NTXentLoss(0.1)(z0, z1), rtol=1e-10, atol=0)
    torch.testing.assert_close(output.embeddings, z0)


def test_wrong_input():
    with pytest.raises(InputError, match=r"views.small.count=0"):
        build("simclr")(make_views(small=2), Step(0, 1))
    with pytest.raises(InputError, match=r"method\.temperature: 0 is not"):
        build("simclr", temperature=0)


def test_the_last_batchnorm_has_a_scale_and_no_shift_as_in_simclrs_code():
    method = build("simclr")
    *_, norm = method.head
    start = norm.weight.clone()
    for number in range(3):
        train_step(method, make_views(small=0, seed=number), Step(number, 10))
    assert (norm.bias == 0).all()
    assert not torch.equal(norm.weight, start)
    assert all(parameter is not norm.bias for parameter in trainable(method))
    shifted = build("simclr", head_bn_shift=True)
    assert any(parameter is shifted.head[-1].bias for parameter in trainable(shifted))
    assert method.state_dict().keys() == shifted.state_dict().keys()


def trainable(method):
    return [parameter for parameter in method.parameters() if parameter.requires_grad]
