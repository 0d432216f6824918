from seer.config import recipes
from seer.pretrain.catalogue import catalogue


def test_every_recipe_says_what_it_is_for():
    entries = catalogue()
    assert [entry.recipe for entry in entries] == list(recipes())
    for entry in entries:
        assert all((entry.title, entry.hardware, entry.hours, entry.score)), entry
        assert entry.command.startswith("seer "), entry
        assert not any("#" in line for line in entry.lines())
    small = next(entry for entry in entries if entry.recipe == "swav_small")
    assert small.hardware == "2 CPU cores"
    assert small.hours == "0.5"
    assert "48.7 %" in small.score
    longer = next(entry for entry in entries if entry.recipe == "swav_resnet50_bs256")
    assert longer.score.endswith(
        "which are steps=2001824 method.freeze=0.0025 method.queue_from=0.0375"
    )
