"""The figure of student and teacher at few steps."""

import re

from t2ilab.eval.few_steps_charts import few_steps_charts
from t2ilab.eval.result import Metric


def metrics():
    found = {}
    for prefix, each in (("", 1), ("teacher/", 2)):
        for steps in (1, 2, 4):
            found[f"{prefix}nfe/judge@{steps}"] = Metric(0.2 * steps / each, 0.1, 0.9, 6, "", "share", True)
            found[f"{prefix}nfe/seconds@{steps}"] = Metric(0.01 * steps * each, None, None, 6, "", "s", False)
            found[f"{prefix}nfe/evaluations@{steps}"] = Metric(each * steps, None, None, 1, "", "", False)
    return found | {"judge/overall": Metric(0.5, 0.4, 0.6, 6, "", "share", True)}


def test_every_quantity_has_a_line_of_each_against_evaluations():
    charts = few_steps_charts(metrics())
    assert [name for name, _ in charts] == ["prompt accuracy", "seconds per image"]
    for _, svg in charts:
        assert {"student", "teacher"} <= set(re.findall(r">(\w+)</text>", svg))
    told = re.findall(r"<title>(\w+): ([\d.]+) at (\d+)</title>", charts[0][1])
    assert ("teacher", "0.4", "8") in told and ("student", "0.8", "4") in told, "guidance counts twice"


def test_runs_without_such_a_comparison_have_no_figure():
    assert few_steps_charts({"judge/overall": Metric(0.5, 0.4, 0.6, 6, "", "share", True)}) == []
