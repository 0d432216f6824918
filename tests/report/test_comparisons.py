"""Whether two scores differ by more than chance, by what each image scored."""

import re

import numpy as np
import pytest
from scipy.stats import binomtest

from seer import jsonl
from seer.eval import outcomes
from seer.eval.curves import below_pixels, curves
from seer.eval.paired import mcnemar
from seer.report.comparisons import Scored, difference
from seer.report.html import write_comparison, write_report
from seer.report.runfiles import read_run
from seer.report.scoreboard import MOST_COMPARED, boards
from seer.report.verdict import ALIKE, BETTER, WORSE, against_beginning, against_first
from tests.kit.torchless import without_torch
from tests.report.conftest import result, titled, write_run

IMAGES = 400
# Right with both models on 200 images, with neither on 160; and with one alone on 40.
OURS = np.arange(IMAGES) < 232
THEIRS = np.roll(np.arange(IMAGES) < 208, 32)  # 32 are ours alone, 8 theirs
P = binomtest(8, 40).pvalue
# Agresti and Min: 24/402 ± 1.96 sqrt((41/402 - (24/402)²) / 402)
WORDS = f"+6.0 points [+2.9, +9.0], larger than chance (p = {P:.2g})"
OF_TWO = f"+6.0 points [+2.9, +9.0], larger than chance (p = {2 * P:.2g})"  # by Holm


def scored(path, **hits: np.ndarray):
    """A run with a row for each model, `ours` its own; what each image scored is kept."""
    names = {"ours": f"{path.name} step-000000100", "untrained": f"{path.name} untrained"}
    rows = []
    for name, right in hits.items():
        value = float(right.mean())
        row = titled(result(names.get(name, name), value)) | {"comparable": "abc"}
        rows.append(row | {"low": value - 0.05, "high": value + 0.05})
    run = write_run(path, results=rows)
    for row, right in zip(rows, hits.values(), strict=True):
        outcomes.keep(run / "results.jsonl", row, {"hits": right})
    return run


def test_images_tell_apart_what_intervals_do_not(tmp_path):
    run = read_run(scored(tmp_path / "a", ours=OURS, untrained=THEIRS))
    ours, theirs = run.results
    assert ours["low"] < theirs["high"]
    (board,) = boards([run])
    assert board.compared == ("a, step 100", [("a untrained", WORDS)])
    verdict = against_beginning(run)
    assert verdict.title == "Better than the untrained network: 6.0 points more"
    (finding,) = verdict.findings
    assert finding.outcome == BETTER
    assert finding.words.endswith(
        f"6.0 points more (+2.9 to +9.0 image by image); that is larger than chance (p = {P:.2g})."
    )
    swapped = read_run(scored(tmp_path / "b", ours=THEIRS, untrained=OURS))
    assert against_beginning(swapped).outcome == WORSE


def test_so_they_do_of_several_runs_and_of_pixels(tmp_path):
    a = read_run(scored(tmp_path / "a", ours=THEIRS, pixels=OURS))
    b = read_run(scored(tmp_path / "b", ours=OURS))
    (board,) = boards([a, b])
    assert board.compared is not None
    assert board.compared.best == "b, step 100"
    assert dict(board.compared.lines)["a, step 100"] == OF_TWO
    assert dict(board.compared.lines)["pixels"].startswith("+0.0 points")
    (finding,) = against_first([a, b]).findings
    assert (finding.outcome, finding.measure[:2]) == (BETTER, "b:")
    (finding,) = against_beginning(a).findings
    assert "Worse than raw pixels, 58.0 %" in finding.words


def test_a_difference_within_chance_is_said_as_such(tmp_path):
    right = OURS.copy()
    right[:5] = False
    run = read_run(scored(tmp_path / "a", ours=OURS, untrained=right))
    p = binomtest(0, 5).pvalue
    (finding,) = against_beginning(run).findings
    assert finding.outcome == ALIKE
    assert f"no larger than chance (p = {p:.2g}), so these images do not" in finding.words


@pytest.mark.parametrize("what", ["missing", "damaged", "another's", "other protocol", "cut"])
def test_without_what_both_scored_intervals_are_compared(tmp_path, what):
    path = scored(tmp_path / "a", ours=OURS, untrained=THEIRS)
    results = path / "results.jsonl"
    row = read_run(path).results[1]
    kept = outcomes.path_of(results, row)
    if what == "missing":
        kept.unlink()
    elif what == "damaged":
        kept.write_bytes(b"\x00" * 40)
    elif what == "another's":
        outcomes.keep(results, row, {"hits": ~THEIRS})
    elif what == "cut":
        outcomes.keep(results, row, {"hits": THEIRS[:-1]})
    else:
        rows = results.read_text().splitlines()
        results.write_text(rows[0] + "\n" + rows[1].replace('able": "abc"', 'able": "abd"') + "\n")
        outcomes.keep(results, row | {"comparable": "abd"}, {"hits": THEIRS})
    run = read_run(path)
    (board,) = boards([run])
    assert board.compared is None
    (finding,) = against_beginning(run).findings
    assert finding.outcome == ALIKE
    assert "the 95 % intervals overlap" in finding.words
    assert not run.remarks


def test_of_a_checkpoint_the_page_says_one_thing(tmp_path):
    """Its row has the paired differences; what each image scored of it is not kept."""

    def checkpoint(name: str, against: dict[str, np.ndarray]) -> Scored:
        path = write_run(tmp_path / name, results=[])
        measured = {f"{name} step-000000100": THEIRS, f"{name} untrained": OURS, "pixels:48": OURS}
        rows = [
            titled(result(model, float(hits.mean()))) | {"comparable": "abc", "step": 0}
            for model, hits in measured.items()
        ]
        differences = {which: mcnemar(THEIRS, hits).row() for which, hits in against.items()}
        rows[0] |= {"step": 100, "against": differences}
        jsonl.write(path / "scores.jsonl", rows)
        run = read_run(path)
        return Scored(run, run.results[0])

    a = checkpoint("a", {"untrained": OURS, "pixels": OURS})
    assert "below raw pixels" in below_pixels(curves(a.run.scores)[0].newest, 100)
    (finding,) = against_beginning(a.run).findings
    assert finding.outcome == WORSE
    assert f"that is larger than chance (p = {P:.2g})" in finding.words
    assert "Worse than raw pixels" in finding.words
    b = checkpoint("b", {"pixels": ~OURS})  # of another evaluation than its values
    _, untrained, pixels = b.run.results
    assert difference(a, Scored(b.run, pixels)) == mcnemar(THEIRS, OURS)
    assert difference(a, Scored(b.run, untrained)) is None  # of another run
    assert difference(b, Scored(b.run, pixels)) is None


def test_a_board_of_many_compares_the_best_with_the_next(tmp_path):
    hits = {f"other {i:03d}": np.arange(IMAGES) < 200 - i for i in range(MOST_COMPARED + 5)}
    (board,) = boards([read_run(scored(tmp_path / "a", ours=OURS, **hits))])
    assert board.compared is not None
    assert [name for name, _ in board.compared.lines] == list(hits)[:MOST_COMPARED]


def test_the_page_says_it_and_needs_no_torch(tmp_path):
    run = scored(tmp_path / "a", ours=OURS, untrained=THEIRS, pixels=~OURS)
    ((code, _, error),) = without_torch(["report", str(run)])
    assert (code, error) == (0, "")
    text = re.sub(r"\s+", " ", (run / "report.html").read_text())
    assert "image by image, corrected for 2 comparisons (Holm):" in text
    assert f"a untrained: {OF_TWO}" in text
    assert "was told by these same images, so its lead looks larger than it is" in text
    write_report(run)
    other = scored(tmp_path / "b", ours=OURS)
    page = write_comparison([run, other], tmp_path / "page.html").read_text()
    assert "corrected for 3 comparisons (Holm)" in page


def test_what_is_beyond_chance_by_itself_may_not_be_of_several(tmp_path):
    fewer = {}
    for models in (1, 5):
        hits = {f"other {i}": OURS.copy() for i in range(models)}
        for right in hits.values():
            right[:7] = False  # p = 0.016 by itself
        run = read_run(scored(tmp_path / f"of{models}", ours=OURS, **hits))
        (board,) = boards([run])
        assert board.compared is not None
        fewer[models] = [words for _, words in board.compared.lines]
    (alone,) = fewer[1]
    assert ", larger than chance (p = 0.016)" in alone
    assert len(fewer[5]) == 5
    assert all(", no larger than chance (p = 0.078)" in words for words in fewer[5])
