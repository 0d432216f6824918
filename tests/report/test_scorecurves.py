"""Charts of the scores of checkpoints."""

from seer import jsonl
from seer.report.runfiles import read_run
from seer.report.scorecurves import score_charts
from tests.report.conftest import result, titled, write_run


def test_curves_of_several_runs_have_the_lines_that_all_have(tmp_path):
    for name, pixels in {"a": 0.4, "b": 0.4, "c": 0.3}.items():
        path = write_run(tmp_path / name)
        scores = [("pixels:48", 0, pixels), (f"{name} untrained", 0, 0.2), (name, 100, 0.5)]
        rows = [titled(result(model, value)) | {"step": step} for model, step, value in scores]
        jsonl.write(path / "scores.jsonl", rows)
    runs = [read_run(tmp_path / name) for name in "abc"]
    (two,) = score_charts(runs[:2])
    assert "raw pixels 40.0 %" in two.svg
    (three,) = score_charts(runs)
    assert "raw pixels" not in three.svg.partition("data-chart")[2]
    assert "untrained 20.0 %" in three.svg
    (lacking,) = score_charts([runs[0], read_run(write_run(tmp_path / "d"))])
    assert lacking.note == "Not measured: d."
