import pytest

from seer.errors import InputError
from seer.pretrain.length import check_images
from seer.pretrain.recipe import load_config


def test_more_clusters_than_images_are_told_before_a_run_begins():
    config = load_config("deepcluster_resnet50", ["data=.", "batch_size=8"])
    with pytest.raises(InputError, match="more clusters than the 2,999 images"):
        check_images(config, 2999)
    check_images(config, 3000)
