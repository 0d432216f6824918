import pytest

from seer.errors import InputError
from seer.pretrain.recipe import load_config
from seer.pretrain.rehearsal import rehearse


def test_a_batch_is_rehearsed_as_large_as_it_will_be():
    def config(*overrides: str):
        return load_config("moco_resnet50", ["data=x", "backbone.name=resnet18", *overrides])

    rehearse(config("batch_size=8", "method.splits=4"))
    with pytest.raises(InputError, match=r"method\.splits=4: .*, and a process has 4"):
        rehearse(config("batch_size=8", "accumulate=2", "method.splits=4"))
