import numpy as np
import pytest
from scipy import stats

from seer.config import RECIPES
from seer.errors import InputError
from seer.eval.analyses.ranked import rank_files

ERICSSON = RECIPES / "eval/published/ericsson2021.csv"
HEAD = "model,task,dataset,metric,value,unit\n"


def test_the_papers_models_over_its_data_sets():
    found = rank_files([ERICSSON], "logreg")
    assert found.models[0] == "DeepCluster-v2"  # first on eight, second on three
    assert len(found.quantities) == 11
    assert found.ranking.p < 1e-10
    assert "mean ranks over 11 data sets, 1 is best" in found.lines()
    assert found.row()["alike"][0][:2] == ["DeepCluster-v2", "SwAV"]
    assert found.ranking.mean.tolist() == sorted(found.ranking.mean)


def test_errors_count_the_other_way_and_models_without_all_are_left_out(tmp_path):
    path = tmp_path / "values.csv"
    lines = ["a,t,one,top1,50,percent", "b,t,one,top1,60,percent", "c,t,one,top1,70,percent"]
    lines += ["a,t,two,error,3,negated", "b,t,two,error,1,negated"]
    path.write_text(HEAD + "\n".join(lines))
    found = rank_files([path], "t")
    assert (found.models, found.left_out) == (["b", "a"], ["c"])
    assert found.ranking.mean.tolist() == [1.0, 2.0]
    # By hand, as SciPy wants three models: χ² = 2 of two models, one of which is first on both.
    assert found.ranking.p == pytest.approx(stats.chi2.sf(2, 1))
    assert found.lines()[-1] == "left out, as they lack a data set: c"
    assert np.isfinite(found.row()["critical"])


def test_what_is_wrong_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"--of logre: no such task \(did you mean 'logreg'\?\)"):
        rank_files([ERICSSON], "logre")
    with pytest.raises(InputError, match="has several measures on voc07-12-boxes"):
        rank_files([ERICSSON], "detection_frozen")
    path = tmp_path / "values.csv"
    path.write_text(f"{HEAD}a,t,one,top1,50,percent\nb,t,one,top1,60,percent")
    with pytest.raises(InputError, match="2 models on 1 data sets"):
        rank_files([path], "t")
