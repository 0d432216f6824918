"""A run on some of the images of its shards: a data set of its own, which the audit knows."""

import json

import numpy as np
import pytest

from seer.checks.audit import audit, batch
from seer.data.order import Order
from seer.data.storage.index import Manifest
from seer.data.storage.reader import Reader
from seer.data.storage.subset import Subset, load_kept, members, subset_of
from seer.errors import InputError
from seer.pretrain.recipe import load_config
from seer.pretrain.run import run
from seer.rundir.names import CHOSEN
from tests.kit.faults import spoil
from tests.kit.runs import SMALL
from tests.kit.shards import write_shards


def keys_in(folder) -> list[str]:
    manifest = Manifest.load(folder)
    tables = [manifest.index(shard, ["key"]) for shard in range(len(manifest.shards))]
    return [key for table in tables for key in table["key"].to_pylist()]


def listed(path, keys):
    path.write_text("".join(f"{key}\n" for key in keys))
    return path


def test_ids_count_through_the_images_of_the_list(tmp_path):
    whole = write_shards(tmp_path / "shards", [4, 3, 5])
    keys = keys_in(tmp_path / "shards")
    wanted = [11, 0, 3, 8]  # none of the second shard; in no order
    part = subset_of(whole, listed(tmp_path / "list.txt", [keys[id] for id in wanted]))
    assert part.samples == 4
    assert part.sizes.tolist() == [2, 0, 2]
    images = Reader(part).read(np.arange(4))
    assert images == Reader(whole).read(np.array(sorted(wanted)))
    stream = Order(part.sizes, seed=1, lanes=2, window=2).ids(0, 8)
    assert sorted(stream[:4]) == sorted(stream[4:]) == [0, 1, 2, 3]
    assert part.hash != whole.hash
    other = subset_of(whole, listed(tmp_path / "other.txt", [keys[id] for id in (0, 3, 8, 10)]))
    assert other.hash != part.hash
    again = subset_of(whole, listed(tmp_path / "again.txt", [keys[id] for id in sorted(wanted)]))
    assert again.hash == part.hash


def test_wrong_lists(tmp_path):
    whole = write_shards(tmp_path / "shards", [4, 3])
    keys = keys_in(tmp_path / "shards")
    with pytest.raises(InputError, match=r"subset=.*none\.txt: no such file; give a list"):
        subset_of(whole, tmp_path / "none.txt")
    with pytest.raises(InputError, match=r"empty\.txt: is empty; a list has the keys"):
        subset_of(whole, listed(tmp_path / "empty.txt", ["", " "]))
    with pytest.raises(InputError, match=r"1 of its 2 keys are not in .*the first is 'nobody'"):
        subset_of(whole, listed(tmp_path / "wrong.txt", [keys[0], "nobody"]))
    one = listed(tmp_path / "one.txt", keys[:3])
    two = listed(tmp_path / "two.txt", keys[2:])
    with pytest.raises(InputError, match=r"two\.txt: has '.*', which is in .*one\.txt as well"):
        members(whole, [str(one), str(two)], "method.lists")
    listed(two, keys[4:])
    assert members(whole, [str(one), str(two)], "x").tolist() == [0, 0, 0, -1, 1, 1, 1]


def test_a_run_keeps_which_images_it_takes(tiny, shards, tmp_path):
    keys = keys_in(shards)
    chosen = listed(tmp_path / "list.txt", keys[1::3])
    settings = [f"data={shards}", f"run_dir={tmp_path / 'run'}", f"subset={chosen}", *SMALL]
    run(load_config(tiny, settings))
    kept = load_kept(tmp_path / "run", CHOSEN, shards)
    assert isinstance(kept, Subset)
    assert kept.hash == subset_of(Manifest.load(shards), chosen).hash
    report = audit(tmp_path / "run", [keys[1]])
    assert (report.images, report.steps, report.exact) == (len(keys[1::3]), 5, True)
    seen = {sample["key"] for step in range(1, 6) for sample in batch(tmp_path / "run", step)}
    assert seen == set(keys[1::3])
    with pytest.raises(InputError, match="no such sample"):
        audit(tmp_path / "run", [keys[0]])
    run(load_config(tiny, settings))  # is finished: the same list
    listed(chosen, keys[2::3])
    with pytest.raises(InputError, match="the images have changed since"):
        run(load_config(tiny, settings))
    with pytest.raises(InputError, match="belongs to another configuration: subset"):
        run(load_config(tiny, [*settings, "subset="]))


def test_a_damaged_image_that_is_alone_in_its_shard(tmp_path):
    whole = write_shards(tmp_path / "whole", [4, 3, 5])
    spoil(tmp_path / "whole", tmp_path / "shards", {"shard-000001.tar": [1]})
    keys = keys_in(tmp_path / "shards")
    manifest = Manifest.load(tmp_path / "shards")
    part = subset_of(manifest, listed(tmp_path / "list.txt", [keys[i] for i in (0, 5, 9)]))
    assert Reader(part).replacement(1, "damaged").id == 2  # of the next shard
    alone = subset_of(manifest, listed(tmp_path / "list.txt", [keys[5]]))
    with pytest.raises(InputError, match="no readable image left"):
        Reader(alone).replacement(0, "damaged")
    assert whole.samples == manifest.samples


def test_too_few_images_are_no_batch(tiny, shards, tmp_path):
    chosen = listed(tmp_path / "list.txt", keys_in(shards)[:3])
    settings = [f"data={shards}", f"run_dir={tmp_path / 'run'}", f"subset={chosen}"]
    with pytest.raises(InputError, match="3 images are fewer than one batch"):
        run(load_config(tiny, settings))
    assert not (tmp_path / "run").exists()


def test_forged_rows(tiny, shards, tmp_path):
    """A run directory may be a stranger's."""
    whole = Manifest.load(shards)
    whole.save(tmp_path)
    for rows in ([0, 0], [3, 1], [int(whole.sizes[0])]):
        forged = Subset(whole, [np.array(rows, np.int32)] + [np.empty(0, np.int32)] * 2)
        forged.save_chosen(tmp_path / CHOSEN)
        with pytest.raises(InputError, match="not rising, or beyond"):
            load_kept(tmp_path, CHOSEN, shards)
    (tmp_path / CHOSEN).write_text(json.dumps([]))
    with pytest.raises(InputError, match="chosen"):
        load_kept(tmp_path, CHOSEN, shards)
