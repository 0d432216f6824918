import json

import numpy as np
import pytest

from seer.data.index import index_path
from seer.errors import InputError
from shards.build import BuildOptions, build
from shards.stats import lines, stats
from tests.shards.conftest import encoded


def test_figures_against_numpy(folder, tmp_path):
    sizes = [(20 + i, 40 - i) for i in range(12)]
    files = {f"{'ab'[i % 3 == 0]}/{i}.jpg": encoded(i, size=size) for i, size in enumerate(sizes)}
    files |= {"a/same.jpg": files["b/0.jpg"], "a/x.png": encoded(0, "PNG", size=(5, 10)), "a/cut.gif": b"GIF89a"}
    build([folder(files)], tmp_path / "out", BuildOptions(workers=1, shard_size=6, labels=True))
    found = stats(tmp_path / "out")
    sizes = np.array([*sizes, sizes[0], (5, 10)])
    data = np.array([len(data) for name, data in files.items() if name != "a/cut.gif"])
    for name, values in {
        "height": sizes[:, 0],
        "width": sizes[:, 1],
        "aspect_ratio": sizes[:, 1] / sizes[:, 0],
        "image_bytes": data,
    }.items():
        assert found[name]["median"] == pytest.approx(np.median(values), abs=1e-4)
        assert (found[name]["min"], found[name]["max"]) == pytest.approx((values.min(), values.max()), abs=1e-4)
    assert found["samples"] == 14
    assert found["formats"] == {"JPEG": 13, "PNG": 1}
    assert found["classes"] == {"a": 10, "b": 4}
    assert found["duplicates"] == 1
    assert found["unlabelled"] == 0
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").glob("*.tar"))
    assert [entry["source"] for entry in found["quarantine"]] == ["a/cut.gif"]
    assert json.loads(json.dumps(found)) == found
    text = "\n".join(lines(found))
    for part in ("14 images", "13 JPEG, 1 PNG", "10 a, 4 b", "1 exact duplicates", "a/cut.gif"):
        assert part in text


def test_missing_index_is_one_line(photos, tmp_path):
    build([photos], tmp_path / "out", BuildOptions(workers=1))
    index_path(tmp_path / "out" / "shard-000000.tar").unlink()
    with pytest.raises(InputError, match="run: seer shards index"):
        stats(tmp_path / "out")
