from seer.config import recipes
from seer.pretrain.catalogue import catalogue, for_machine


def test_every_recipe_says_what_it_is_for():
    entries = catalogue()
    assert sorted(entry.recipe for entry in entries) == sorted(recipes())
    for entry in entries:
        assert all((entry.title, entry.hardware, entry.hours, entry.score)), entry
        assert entry.command.startswith("seer "), entry
        assert not any("#" in line for line in entry.lines())
    small = next(entry for entry in entries if entry.recipe == "swav_small")
    assert small.hardware == "2 CPU cores"
    assert small.hours == "0.75 (measured: 4,638 steps took 35 minutes)"
    assert "48.7 %" in small.score
    longer = next(entry for entry in entries if entry.recipe == "swav_resnet50_bs256")
    assert longer.score.endswith(
        "which are steps=2001824 method.freeze=0.0025 method.queue_from=0.0375"
    )


def test_what_small_machines_can_run_comes_first_and_is_named():
    entries = catalogue()
    names = [entry.recipe for entry in entries]
    small = ["quickstart", "distill_small", "mocov3_small", "simclr_small", "swav_small"]
    assert names[:7] == [*small, "swav_gpu_224", "swav_gpu_96"]
    assert names[-1] == "swav_regnety_256gf"  # for 512
    assert for_machine(entries, 2, 0) == (
        f"on this machine (2 CPU cores, no NVIDIA GPU): {', '.join(small)}"
    )
    four = for_machine(entries, 48, 4)
    assert f"4 NVIDIA GPUs): {', '.join(small)}, swav_gpu_224, swav_gpu_96, swav_" in four
    assert "swav_resnet50_bs256; whether it fits: seer plan RECIPE --gpus N --gpu KIND" in four


def test_it_fits_a_terminal_and_nothing_is_lost():
    for entry in catalogue():
        lines = entry.lines()
        assert max(map(len, lines)) <= 100
        words = " ".join(lines).split()
        for text in (entry.recipe, entry.title, entry.hardware, entry.hours, entry.score):
            assert " ".join(text.split()) in " ".join(words)
