import pytest
import torch
from lightly.loss import visreg_loss
from scipy import stats

from seer.engine.learner import Step
from seer.errors import InputError
from seer.methods.visreg import directions, disagreement, quantiles, regularisation
from tests.methods.tiny import build, make_views


def embeddings(seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 0.3 + 2 * torch.rand(3, 7, 5, generator=draw, dtype=torch.float64)


def test_the_parts_are_lightlys(monkeypatch):
    z = embeddings()
    slices = directions(5, 9, torch.device("cpu")).double()
    monkeypatch.setattr(visreg_loss.torch, "randn", lambda *shape, **options: slices)
    scale, shape, centre = regularisation(z, slices)
    torch.testing.assert_close(scale, visreg_loss.visreg_scale_loss(z), rtol=1e-10, atol=0)
    torch.testing.assert_close(centre, visreg_loss.visreg_center_loss(z), rtol=1e-10, atol=0)
    # Their quantiles are of float32.
    z.requires_grad_()
    gradients = [
        torch.autograd.grad(loss, z)[0]
        for loss in (regularisation(z, slices)[1], visreg_loss.visreg_shape_loss(z, 9))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-8)
    z = z.detach()
    torch.testing.assert_close(shape, visreg_loss.visreg_shape_loss(z, 9), rtol=1e-6, atol=0)
    theirs = visreg_loss.VISRegLoss(num_slices=9, lambda_param=0.6, lambda_shape=3.0)
    found = theirs.forward_components(local_proj=z[2:], global_proj=z[:2])
    torch.testing.assert_close(disagreement(z, 2), found.pred, rtol=1e-10, atol=0)
    total = 0.4 * disagreement(z, 2) + 0.6 * (scale + 3 * shape + centre)
    torch.testing.assert_close(total, found.total, rtol=1e-6, atol=0)


def test_a_steps_loss_is_made_of_them():
    method = build("visreg", regularisation=0.6, scale=2.0, shape=3.0, centre=5.0).double()
    views = make_views(dtype=torch.float64)
    features = torch.cat([method.backbone(crops.flatten(0, 1)) for crops in views.crops])
    z = method.head(features).unflatten(0, (4, 4))
    torch.manual_seed(3)
    slices = directions(6, 16, torch.device("cpu")).double()
    scale, shape, centre = regularisation(z, slices)
    expected = 0.4 * disagreement(z, 2) + 0.6 * (2 * scale + 3 * shape + 5 * centre)
    torch.manual_seed(3)
    torch.testing.assert_close(method(views, Step(5, 10)).loss, expected, rtol=1e-10, atol=0)


def test_quantiles_are_scipys():
    expected = stats.norm.ppf([i / 9 for i in range(1, 9)])
    torch.testing.assert_close(quantiles(8, torch.device("cpu")), torch.from_numpy(expected))


def test_collapse_is_what_the_scale_tells():
    alike = torch.ones(2, 6, 4, dtype=torch.float64, requires_grad=True)
    slices = directions(4, 8, torch.device("cpu")).double()
    scale, _, centre = regularisation(alike, slices)
    assert scale == 1
    assert centre == 1


def test_no_gradient_of_the_shape_moves_the_mean():
    z = embeddings().requires_grad_()
    slices = directions(5, 9, torch.device("cpu")).double()
    regularisation(z, slices)[1].backward()
    assert z.grad.sum(1).abs().max() < 1e-9


def test_directions_have_length_1_and_are_new_each_time():
    first = directions(5, 9, torch.device("cpu"))
    torch.testing.assert_close(first.norm(dim=0), torch.ones(9))
    assert not torch.equal(first, directions(5, 9, torch.device("cpu")))


def test_one_crop_is_refused():
    views = make_views(small=0)
    with pytest.raises(InputError, match=r"views\.large\.count=2"):
        build("visreg")(type(views)((views.crops[0][:1],), views.index), Step(0, 1))
