import copy
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from seer.data.labelled import load_labelled
from seer.errors import InputError
from seer.eval.probes import features
from seer.eval.probes.feature_cache import weights_hash
from seer.eval.probes.features import FeatureConfig, extract, in_threads, stack, taming, to_input
from tests.eval.conftest import small_model
from tests.kit.pictures import write_images
from tests.kit.shards import write_shards


def test_features_are_those_of_torchvisions_preprocessing(data):
    """Small images: resized as a whole, scaled to [0, 1], normalised; one image at a time through
    the network.
    """
    model, train = small_model(), load_labelled(data, "train")
    transform = v2.Compose([
        v2.ToImage(), v2.Resize(16, antialias=True), v2.CenterCrop(16),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(model.mean, model.std),
    ])  # fmt: skip
    with torch.no_grad():
        expected = [
            model.backbone(transform(Image.fromarray(train.image(i)))[None])[0]
            for i in range(len(train))
        ]
    features = extract(model, train, FeatureConfig(batch_size=7))
    # One of 255 levels, by rounding.
    torch.testing.assert_close(features, torch.stack(expected), rtol=0, atol=0.02)
    assert features.dtype == torch.float32


def test_large_models_see_the_central_seven_eighths(tmp_path):
    """At 224 px the short side is resized to 256: a frame of 1/16 on each side is out of sight."""
    pixels = np.full((256, 256, 3), 255, np.uint8)
    pixels[20:-20, 20:-20] = 0
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    seen = []
    model = small_model(size=224)
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    extract(model, load_labelled(tmp_path), FeatureConfig())
    white = (1 - torch.tensor(model.mean)) / torch.tensor(model.std)
    inside = torch.isclose(seen[0][0], white.view(3, 1, 1), atol=1e-3).all(0)
    assert seen[0].shape == (1, 3, 224, 224)
    assert inside[:3].all()
    assert not inside[5:-5, 5:-5].any()


@pytest.mark.parametrize("shape", [(40, 90), (77, 50), (33, 33), (16, 700), (5, 3)])
def test_the_shorter_side_as_the_benchmarks_torchvision_resizes_it(shape):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    transform = v2.Compose([
        v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(32),
    ])  # fmt: skip
    expected = np.asarray(transform(Image.fromarray(image)))
    ours = stack([image], 32, "short_side")[0].numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 1  # by rounding


def test_each_crop_is_kept_by_itself(data):
    model, test = small_model(), load_labelled(data, "test")
    centre = extract(model, test, FeatureConfig())
    whole = extract(model, test, FeatureConfig(crop="short_side"))
    assert not torch.equal(whole, centre)
    assert model.backbone.seen == 2 * len(test)
    assert torch.equal(extract(model, test, FeatureConfig(crop="short_side")), whole)
    assert model.backbone.seen == 2 * len(test)


@pytest.mark.parametrize(("batch_size", "threads"), [(1, 1), (16, 3), (1000, 2)])
def test_batches_and_threads_change_nothing(data, batch_size, threads):
    model, test = small_model(), load_labelled(data, "test")
    config = FeatureConfig(batch_size=batch_size, threads=threads, cache=False)
    torch.testing.assert_close(
        extract(model, test, config), extract(model, test, FeatureConfig(cache=False))
    )


def test_batches_of_large_images_are_smaller(data, monkeypatch):
    model, test = small_model(), load_labelled(data, "test")
    counts = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: counts.append(len(inputs[0])))
    monkeypatch.setattr(features, "LARGEST_BATCH", 7 * 16**2)
    few = extract(model, test, FeatureConfig(cache=False))
    assert counts == [7] * 8 + [4]
    torch.testing.assert_close(
        few, extract(small_model(), test, FeatureConfig(batch_size=7, cache=False))
    )


def test_bf16_is_close(data):
    model, test = small_model(), load_labelled(data, "test")
    a, b = (extract(model, test, FeatureConfig(precision=p)) for p in ("fp32", "bf16"))
    assert not torch.equal(a, b)
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_features_are_computed_once_and_again_only_when_something_changed(data, tmp_path):
    model, test = small_model(), load_labelled(data, "test")
    first = extract(model, test, FeatureConfig())
    assert torch.equal(extract(model, test, FeatureConfig(batch_size=3, threads=1)), first)
    assert model.backbone.seen == len(test)
    extract(model, test, FeatureConfig(cache=False))
    assert model.backbone.seen == 2 * len(test)

    other_weights, other_size = small_model(seed=1), small_model(size=20)
    other_statistics = copy.deepcopy(model)
    other_statistics.backbone.bn.running_mean += 1
    for changed in (other_weights, other_size, other_statistics):
        changed.backbone.seen = 0
        assert not torch.equal(extract(changed, test, FeatureConfig()), first)
        assert changed.backbone.seen == len(test)
    other = load_labelled(write_images(tmp_path / "other", 2, seed=5))
    assert len(extract(model, other, FeatureConfig())) == 6


def test_a_damaged_cache_file_is_replaced(data, tmp_path):
    model, test = small_model(), load_labelled(data, "test")
    first = extract(model, test, FeatureConfig())
    (file,) = (tmp_path / "cache" / "features").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(extract(model, test, FeatureConfig()), first)
    assert file.stat().st_size > 100


def test_shards_give_the_features_of_the_folder_they_came_from(data, tmp_path):
    train = load_labelled(data, "train")
    write_shards(
        tmp_path / "shards", [70, 50], train.bytes, lambda i: int(train.labels[i]), train.classes
    )
    shards = load_labelled(tmp_path / "shards")
    assert torch.equal(
        extract(small_model(), shards, FeatureConfig()),
        extract(small_model(), train, FeatureConfig()),
    )


def test_features_that_are_not_finite_are_refused_with_the_image(data, tmp_path):
    test = load_labelled(data, "test")
    model = small_model()
    model.backbone.bn.running_var.fill_(-1.0)  # finite weights, whose features are not
    with pytest.raises(
        InputError, match=r"net: its features of .*/test/brick/000\.png are NaN or infinite"
    ):
        extract(model, test, FeatureConfig(batch_size=7))
    assert not (tmp_path / "cache").exists()

    model = small_model()
    model.backbone.register_forward_hook(
        lambda module, inputs, output: output / (inputs[0].mean((1, 2, 3))[:, None] != dark)
    )
    dark = model_input_means(model, test)[17]
    with pytest.raises(InputError, match=r"/test/brick/017\.png are NaN or infinite"):
        extract(model, test, FeatureConfig(batch_size=7, threads=3))


def model_input_means(model, images) -> torch.Tensor:
    """The mean of each image as the network sees it."""
    pixels = stack([images.image(i) for i in range(len(images))], model.size)
    return to_input(model, pixels).mean((1, 2, 3))


def test_values_of_any_size_are_brought_to_where_their_squares_are_numbers():
    largest = torch.tensor([0.0, 1e-45, 1e-20, 1e-3, 1.0, 1e6, 1e20, 3e38])
    factors = taming(largest)
    assert factors[[0, 3, 4, 5]].tolist() == [1, 1, 1, 1]
    tamed = (largest * factors)[[1, 2, 6, 7]]
    assert ((tamed >= 1e-7) & (tamed <= 4)).all()
    mantissas, _ = torch.frexp(factors)
    assert (mantissas == 0.5).all()


def test_a_damaged_image_is_named(tmp_path):
    folder = write_images(tmp_path / "images", 2, seed=0)
    (folder / "moss" / "001.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(InputError, match=r"moss/001\.png"):
        extract(small_model(), load_labelled(folder), FeatureConfig())


@pytest.mark.parametrize(
    ("option", "message"),
    [({"precision": "fp8"}, "fp32"), ({"device": "tpu"}, "did you mean 'cpu'")],
)
def test_wrong_options_are_named(data, option, message):
    with pytest.raises(InputError, match=message):
        extract(small_model(), load_labelled(data, "test"), FeatureConfig(**option))


def test_weights_hash_sees_names_values_and_structure():
    hashes = {weights_hash(small_model(seed).backbone) for seed in (0, 0, 1)}
    assert len(hashes) == 2
    assert weights_hash(torch.nn.Linear(2, 3)) != weights_hash(torch.nn.Linear(3, 2))


def test_threads_keep_order_and_run_only_a_little_ahead():
    started, lock = [], threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item * item

    results = in_threads(work, list(range(50)), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert max(started) <= 3 + 2 * 2
    assert list(results) == [i * i for i in range(3, 50)]
