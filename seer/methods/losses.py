"""The losses. They take tensors; the mean of the ranks' values is the loss of the whole batch."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seer.distributed import gather, rank
from seer.precision import full_precision


@full_precision
def swapped_prediction(
    scores: Tensor, assignments: Tensor, assign: Sequence[int], temperature: float
) -> Tensor:
    """Predict the assignment of one crop from every other crop of the same image (SwAV; Caron et
    al. 2020, eq. 2).

    Args:
        scores: `(V, B, K)` of all crops.
        assignments: `(A, B, K)`, the targets, in the order of `assign`.
        assign: which crops the assignments belong to.

    Returns:
        The cross entropy in nats, averaged over images and the A·(V-1) pairs.
    """
    pairs = len(assign) * (len(scores) - 1)
    log_probabilities = F.log_softmax(scores / temperature, dim=-1)
    loss = scores.new_zeros(())
    for v, log_p in enumerate(log_probabilities):
        # The cross entropy is linear in its target, so crop v meets all its targets at once.
        targets = [q for a, q in zip(assign, assignments, strict=True) if a != v]
        if targets:
            target = sum(targets[1:], targets[0])
            likelihood = (target * log_p).sum(-1)
            loss = loss - likelihood.mean()
    return loss / pairs


@full_precision
def nt_xent(embeddings: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Find another view of an image among all views of all other images on all ranks (SimCLR; Chen et
    al. 2020, eq. 1). Of more than two views, each other one is found by itself, and the rest are no
    negatives (Tian et al. 2020, arXiv:1906.05849, section 3.2).

    Args:
        embeddings: `(V, B, D)`, of any length.

    Returns:
        The loss in nats, averaged over this rank's V·B anchors and their V - 1 other views, with gradients to the
        negatives' ranks; and the share of anchors whose nearest of all is of their own image.
    """
    views, batch = embeddings.shape[:2]
    unit = F.normalize(embeddings, dim=2)
    others = [(unit * unit.roll(shift, 0)).sum(2).flatten() for shift in range(1, views)]
    positives = torch.stack(others, 1) / temperature  # (V·B, V - 1)
    anchors = unit.flatten(0, 1)
    logits = anchors @ gather(anchors).T / temperature
    count = views * batch
    first = count * rank()  # of the columns, this rank's
    row = torch.arange(count, device=anchors.device)
    own = logits.narrow(1, first, count)
    # Nothing is its own negative. Numbers put at indices would be copied from the host, waiting.
    own.diagonal().fill_(-torch.inf)
    nearest = logits.argmax(1)
    # Not -inf: where one image is all there is, the sum's gradient would be none.
    nothing = torch.finfo(logits.dtype).min
    own.masked_fill_(row % batch == (row % batch)[:, None], nothing)
    negatives = logits.logsumexp(1, keepdim=True)
    loss = (torch.logaddexp(positives, negatives) - positives).mean()
    same_rank = nearest // count == rank()
    return loss, (same_rank & (nearest % batch == row % batch)).float().mean()


@full_precision
def contrast(
    queries: Tensor, keys: Tensor, negatives: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor]:
    """Find the key of an image among those of others: in a queue (MoCo; He et al. 2020,
    arXiv:1911.05722, eq. 1), or else in the batch of all ranks (MoCo v3; Chen et al. 2021,
    arXiv:2104.02057, eq. 1).

    Args:
        queries: `(B, D)`, of any length.
        keys: `(B, D)`, the other views of the same images; no gradient flows to them.
        negatives: `(K, D)` of length 1; None takes the other images' keys.

    Returns:
        The cross entropy in nats, averaged over this rank's images; and the share of them whose key is the nearest.
    """
    q = F.normalize(queries, dim=1)
    k = F.normalize(keys.detach(), dim=1)
    if negatives is None:
        logits = q @ gather(k).T
        right = len(q) * rank() + torch.arange(len(q), device=q.device)
    else:
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ negatives.to(q.dtype).T], dim=1)
        right = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    loss = F.cross_entropy(logits / temperature, right)
    return loss, (logits.argmax(1) == right).float().mean()


@full_precision
def regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Distance on the unit sphere between prediction and target of different crops (BYOL; Grill et
    al. 2020, eq. 2–3).

    Args:
        predictions: `(V, B, D)`, the first T of them from the crops of `targets`.
        targets: `(T, B, D)`; no gradient flows to them.

    Returns:
        Twice the mean of ‖p - t‖² = 2 - 2·cos(p, t) over images and pairs of crops: for two crops, the paper's sum over
        both directions. From 0 to 8; 4 when predictions and targets are orthogonal.
    """
    p = F.normalize(predictions, dim=-1)
    t = F.normalize(targets.detach(), dim=-1)
    cosines = torch.stack([(p * target).sum(-1).mean(-1) for target in t])
    different = ~torch.eye(len(t), len(p), dtype=torch.bool, device=p.device)
    return 4 - 4 * (cosines * different).sum() / (len(t) * (len(p) - 1))
