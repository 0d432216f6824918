"""Oracles: a case worked out by hand, lightly's implementation, and Sinkhorn in the log domain in
float64.
"""

import pytest
import torch
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn

from seer.methods.sinkhorn import sinkhorn


def log_domain(scores: torch.Tensor, epsilon: float, iterations: int) -> torch.Tensor:
    """`(N, K)`, never leaving logarithms."""
    q = scores.double() / epsilon
    for _ in range(iterations):
        q = q - q.logsumexp(0, keepdim=True)
        q = q - q.logsumexp(1, keepdim=True)
    return q.exp()


def test_by_hand():
    # 3 samples, 4 prototypes. The columns of exp(scores) sum to 4, 8, 4, 16.
    scores = torch.tensor([[1, 2, 1, 4], [2, 2, 1, 4], [1, 4, 2, 8]], dtype=torch.float64).log()[
        None
    ]
    once = torch.tensor(
        [[1 / 4] * 4, [2 / 5, 1 / 5, 1 / 5, 1 / 5], [1 / 7, 2 / 7, 2 / 7, 2 / 7]],
        dtype=torch.float64,
    )
    # Its columns sum to 111/140 and three times 103/140; dividing by them and then rows by their
    # sums gives:
    twice = [
        [103 / 436, *[111 / 436] * 3],
        [206 / 539, *[111 / 539] * 3],
        [103 / 769, *[222 / 769] * 3],
    ]

    q, empty = sinkhorn(scores, 1.0, 1)
    assert q.dtype == torch.float64
    assert empty == 0
    torch.testing.assert_close(q[0], once, rtol=1e-14, atol=0)
    torch.testing.assert_close(
        sinkhorn(scores, 1.0, 2)[0][0], torch.tensor(twice, dtype=torch.float64), rtol=1e-14, atol=0
    )
    torch.testing.assert_close(sinkhorn(scores / 20, 0.05, 1)[0][0], once, rtol=1e-13, atol=0)


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_equals_lightly(iterations):
    scores = torch.rand(2, 16, 40, dtype=torch.float64) * 2 - 1
    q, _ = sinkhorn(scores, 0.05, iterations)
    for ours, one in zip(q, scores, strict=True):
        torch.testing.assert_close(
            ours, lightly_sinkhorn(one, iterations, 0.05), rtol=1e-11, atol=1e-300
        )


def test_uses_prototypes_equally_and_leaves_the_scores():
    scores = torch.rand(1, 64, 8, dtype=torch.float64)
    before = scores.clone()
    q, _ = sinkhorn(scores, 0.1, 200)
    torch.testing.assert_close(q.sum(1), torch.full((1, 8), 8.0, dtype=torch.float64))
    torch.testing.assert_close(q.sum(2), torch.ones(1, 64, dtype=torch.float64))
    assert torch.equal(scores, before)


@pytest.mark.parametrize("epsilon", [0.05, 0.03])
def test_fp32_holds_all_cosines(epsilon):
    scores = torch.rand(1, 64, 200) * 2 - 1
    scores[0, 0] = -1  # far below the others, for every prototype
    q, empty = sinkhorn(scores, epsilon, 10)
    assert empty == 0
    torch.testing.assert_close(
        q[0].double(), log_domain(scores[0], epsilon, 10), rtol=1e-3, atol=1e-6
    )


def test_huge_logits_do_not_overflow():
    scores = torch.randn(1, 32, 10) * 1e4
    q, empty = sinkhorn(scores, 0.05, 3)
    assert empty == 0
    # Logits of 10⁶ are 0.06 apart in fp32, so compare with the exact solution of what fp32 sees.
    torch.testing.assert_close(
        q[0].double(), log_domain(scores[0] / 0.05, 1, 3), rtol=1e-2, atol=1e-3
    )
    torch.testing.assert_close(q.sum(2), torch.ones(1, 32))


def test_one_sided_demand_stays_finite():
    """Many samples, one prototype each side of a gulf that exp cannot cross: no scaling balances
    them.
    """
    scores = torch.full((1, 100, 2), -1e6)
    scores[0, :99, 0] = scores[0, 99, 1] = 1e6
    q, _ = sinkhorn(scores, 0.05, 50)
    torch.testing.assert_close(q, torch.tensor([[1.0, 0.0]] * 99 + [[0.0, 1.0]])[None])


def test_an_empty_prototype_is_counted_and_left_out():
    scores = torch.rand(2, 8, 5)
    without = scores[1][:, [0, 1, 3, 4]]
    scores[1, :, 2] = -torch.inf
    q, empty = sinkhorn(scores, 0.05, 3)
    assert empty == 1
    assert (q[1, :, 2] == 0).all()
    torch.testing.assert_close(
        q[1][:, [0, 1, 3, 4]].double(), log_domain(without, 0.05, 3), rtol=1e-4, atol=1e-6
    )


def test_mixed_precision_does_not_reach_it():
    scores = torch.rand(1, 16, 12)
    expected, _ = sinkhorn(scores, 0.05, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = sinkhorn(scores, 0.05, 3)
    assert torch.equal(inside, expected)
    assert sinkhorn(scores.half(), 0.05, 3)[0].dtype == torch.float32
