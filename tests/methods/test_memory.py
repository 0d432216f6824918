import itertools
from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seer.methods.heads import MLP
from seer.methods.memory import Queue, Teacher
from tests.kit.networks import ConvNet
from tests.methods.tiny import make_views


@settings(max_examples=50, deadline=None)
@given(length=st.integers(1, 9), pushes=st.lists(st.integers(0, 20), max_size=8))
def test_queue_holds_the_last_rows(length, pushes):
    queue, oracle, numbers = Queue(length, 2), deque(maxlen=length), itertools.count(1)
    for count in pushes:
        rows = [next(numbers) for _ in range(count)]
        oracle.extend(rows)
        queue.push(torch.tensor(rows, dtype=torch.float32).reshape(-1, 1).expand(-1, 2))
        assert queue.full == (len(oracle) == length)
    held = queue.share()
    assert torch.equal(held[:, 0], held[:, 1])
    assert sorted(held[held[:, 0] > 0, 0].tolist()) == sorted(oracle)


def test_queue_travels_in_a_state_dict():
    queue, copy = Queue(4, 3), Queue(4, 3)
    queue.push(torch.randn(6, 3, requires_grad=True))
    copy.load_state_dict(queue.state_dict())
    for q in (queue, copy):
        q.push(torch.ones(1, 3))
    assert torch.equal(queue.rows, copy.rows)
    assert copy.full


def student() -> tuple[ConvNet, MLP]:
    return ConvNet(), MLP(8, [16, 6])


def test_teacher_follows_parameters_and_keeps_its_own_statistics():
    backbone, head = student()
    teacher = Teacher(backbone, head)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in itertools.chain(backbone.parameters(), head.parameters()):
            p += 1
    backbone.bn.running_mean += 5
    teacher.follow(backbone, head, momentum=0.75)
    for p, old in zip(teacher.parameters(), before, strict=True):
        torch.testing.assert_close(p, old + 0.25)
    assert (teacher.backbone.bn.running_mean == 0).all()

    teacher.copy_from(backbone, head)
    ours, theirs = teacher.backbone.state_dict(), backbone.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_teacher_sees_the_large_crops_without_gradient():
    backbone, head = student()
    teacher = Teacher(backbone, head)
    views = make_views(batch=3)
    out = teacher(views.crops[0])
    assert out.shape == (2, 3, 6)
    assert not out.requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    torch.testing.assert_close(out.flatten(0, 1), head(backbone(views.crops[0].flatten(0, 1))))
    assert teacher.backbone.bn.num_batches_tracked == 1


@pytest.mark.parametrize("name", ["rows", "pushed"])
def test_queue_is_made_of_buffers(name):
    assert name in dict(Queue(2, 3).named_buffers())
