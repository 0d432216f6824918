"""Every recipe says what it costs, and builds."""

import pytest

from seer.config import find_recipe, recipes
from seer.recipe import load_config, rehearse

PUBLISHED = {  # reference values of SEER and SwAV: batch, peak rate, steps
    "swav_regnety_256": (8192, 9.6, 122_070),
    "swav_regnety_10b": (7936, 9.3, 126_008),
    "swav_resnet50_800ep": (4096, 4.8, round(800 * 1_281_167 / 4096)),
    "swav_resnet50_400ep": (4096, 4.8, round(400 * 1_281_167 / 4096)),
    "swav_resnet50_bs256": (256, 0.6, round(200 * 1_281_167 / 256)),
}


@pytest.mark.parametrize("name", recipes())
def test_a_recipe_opens_with_its_cost_and_makes_a_step(name):
    header = [line for line in recipes()[name].read_text().splitlines() if line.startswith("#")]
    for word in ("seer ", "Hardware ", "Hours ", "Score "):
        assert any(line.removeprefix("#").strip().startswith(word) for line in header), f"no line on {word.strip()}"
    config = load_config(name, ["data=shards"])
    assert config.name == name
    rehearse(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    config = load_config(name, ["data=shards"])
    assert (config.batch_size, config.schedule.peak, config.steps) == pytest.approx(PUBLISHED[name], rel=1e-6)


def test_seers_recipe_in_full():
    config = load_config("swav_regnety_256gf", ["data=shards"])  # as the network is called
    method, views = config.method, config.views
    assert config.backbone.name == "regnety_2560"
    assert (method.head, method.head_bn, method.prototypes) == ([8192, 8192, 256], False, 16_000)
    assert (method.epsilon, method.iterations, method.temperature, method.freeze) == (0.05, 10, 0.1, 313)
    assert [(v.size, v.count, v.scale) for v in views.values()] == [(224, 2, [0.14, 1.0]), (96, 4, [0.05, 0.14])]
    assert (config.schedule.start, config.schedule.final, config.schedule.warmup) == (0.15, 0.0096, 8000)
    assert (config.optim.weight_decay, config.optim.larc, config.optim.decay_norm_and_bias) == (1e-5, True, True)
    assert (config.parallel.mode, config.parallel.bn_group) == ("fsdp", 64)
    assert config.parallel.checkpointing == [[2], [7], [9, 17], []]


def test_every_recipe_is_found_by_its_name():
    assert {find_recipe(name) for name in recipes()} == set(recipes().values())
    assert {"quickstart", "swav_small", "simclr_resnet50", "byol_resnet50", *PUBLISHED} <= recipes().keys()
