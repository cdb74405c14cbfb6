"""Before and after: which metrics changed, by how much, and is it more than noise?

Where both evaluations asked the same prompts with the same noise (same seeds, copies and prompt digest), each
prompt is compared with itself. Elsewhere two independent intervals are combined, which is much wider; the
table says which.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2ilab.eval.intervals import paired_bootstrap
from t2ilab.eval.result import Evaluation, Metric, Outcomes

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Change:
    """One metric before and after.

    Attributes:
        difference: after - before as a metric of its own, in the same unit; its n is that of the pairs.
        paired: whether prompts were compared one by one.
        verdict: "better", "worse", "unclear" (the interval holds 0) or "changed" (no direction is good).
    """

    key: str
    before: Metric
    after: Metric
    difference: Metric
    paired: bool
    verdict: str


GUARDED = ("fd_clip", "clip_score", "diversity", "style")  # beside the overall shares and the held-out losses
NO_MODEL = ("reconstruction/", "close_calls")  # of the autoencoder and of the judge, which no stage changes
SAME = {  # what two evaluations must have been measured with, and the option that decides it
    "features_digest": "eval.scorer",
    "reference_digest": "data",
    "prompts_digest": "eval",
    "heldout": "eval",
    "seed": "eval.seed",
    "samples_per_prompt": "eval.samples_per_prompt",
    "sampler": "sampler",
    "guidance": "guidance",
    "precision": "trainer.precision",
    "weights": "stage.weights",
}


@dataclass(frozen=True)
class BeforeAfter:
    """A model before and after a stage, measured alike.

    Attributes:
        changes: of every metric that both have.
        better, worse: those of the guarded metrics whose interval leaves 0 out.
    """

    before: Evaluation
    after: Evaluation
    changes: list[Change]

    @classmethod
    def of(cls, before: Evaluation, after: Evaluation) -> BeforeAfter:
        """The comparison of two evaluations; what `after` calls `apart` may differ, as a student's sampler does.

        Raises:
            ValueError: they were not measured alike, naming what differs.
        """
        for key, option in SAME.items():
            if key not in after.meta.get("apart", ()) and before.meta.get(key) != after.meta.get(key):
                raise ValueError(
                    f"before and after do not compare: {key.replace('_', ' ')} was {before.meta.get(key)} and is "
                    f"{after.meta.get(key)}; measure both with the same {option}"
                )
        changes = [change for change in compare(before, after) if not change.key.startswith(NO_MODEL)]
        return cls(before, after, changes)

    def headlines(self) -> list[Change]:
        """The changes without those of single tasks and times."""
        shown = headlines(self.after)
        return [change for change in self.changes if change.key in shown]

    @property
    def better(self) -> list[Change]:
        return [change for change in self._guarded() if change.verdict == "better"]

    @property
    def worse(self) -> list[Change]:
        return [change for change in self._guarded() if change.verdict == "worse"]

    def _guarded(self) -> list[Change]:
        return [
            change
            for change in self.changes
            if change.key in GUARDED
            or change.key.endswith("/overall")
            or change.key.startswith(("loss/heldout", "reward/", "personal/"))
        ]

    def text(self) -> str:
        """What got better and what got worse, in a line each."""
        lines = []
        for what, changes in (("better", self.better), ("worse", self.worse)):
            told = ", ".join(f"{c.key} {signed(c.difference)}" for c in changes)
            lines.append(f"{what} by more than its interval: {told or 'nothing'}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Metric -> before, after, difference, low, high, n; null where a number is not there."""
        changes = {change.key: change for change in self.changes}
        table = {}
        for key in dict.fromkeys([*self.before, *self.after]):
            if key.startswith(NO_MODEL):
                continue
            earlier, later, change = self.before.get(key), self.after.get(key), changes.get(key)
            gap = None if change is None else change.difference.to_json()
            found = earlier or later
            assert found is not None
            table[key] = {
                "before": None if earlier is None else earlier.to_json()["value"],
                "after": None if later is None else later.to_json()["value"],
                "difference": None if gap is None else gap["value"],
                "low": None if gap is None else gap["low"],
                "high": None if gap is None else gap["high"],
                "n": found.n if gap is None else gap["n"],
            }
        return table


def headlines(keys: Iterable[str]) -> list[str]:
    """The metrics among these without those of single tasks and times."""
    keys = [key for key in keys if not key.startswith("loss/t")]
    suites = {key.rpartition("/")[0] for key in keys if key.endswith("/overall")}
    return [key for key in keys if key.endswith("/overall") or key.rpartition("/")[0] not in suites]


def signed(difference: Metric) -> str:
    """A difference with its sign, in its unit."""
    return ("+" if difference.value > 0 else "") + difference.number(difference.value)


def paired(before: Evaluation, after: Evaluation) -> bool:
    """Whether both asked the same questions with the same noise."""
    keys = ("seed", "samples_per_prompt", "prompts_digest")
    return all(
        before.meta.get(key) is not None and before.meta.get(key) == after.meta.get(key) for key in keys
    )


def compare(before: Evaluation, after: Evaluation) -> list[Change]:
    """All metrics that both have, in the order of `after`; losses only where both networks predict the same."""
    pairs = paired(before, after)
    same = before.meta.get("predicts") == after.meta.get("predicts")
    changes = []
    for key, metric in after.metrics.items():
        earlier = before.get(key)
        if earlier is None or (key.startswith("loss/") and not same):
            continue
        outcomes = (outcomes_of(before, key), outcomes_of(after, key)) if pairs else (None, None)
        changes.append(_change(key, earlier, metric, *outcomes, seed=int(after.meta.get("seed") or 0)))
    return changes


def _change(
    key: str, before: Metric, after: Metric, old: Outcomes | None, new: Outcomes | None, *, seed: int
) -> Change:
    matched = old is not None and new is not None and old.values.shape == new.values.shape
    value = after.value - before.value
    low: float | None
    high: float | None
    if matched and old is not None and new is not None:
        shares = after.unit == "share"
        interval = paired_bootstrap(old.values, new.values, new.groups, seed=seed, shares=shares)
        (low, high), n, method = interval.ends, interval.n, interval.method
    else:
        low, high = combined(before, after, value)
        n, method = min(before.n, after.n), "two independent intervals" if low is not None else "no interval"
    difference = Metric(value, low, high, n, method, after.unit, after.higher_is_better)
    return Change(key, before, after, difference, matched, verdict_of(difference))


def combined(before: Metric, after: Metric, value: float) -> tuple[float | None, float | None]:
    """The interval of a difference of independent metrics: half widths in quadrature, on the sides that matter."""
    if None in (before.low, before.high, after.low, after.high):
        return None, None
    down = math.hypot(after.value - after.low, before.high - before.value)  # type: ignore[operator]
    up = math.hypot(after.high - after.value, before.value - before.low)  # type: ignore[operator]
    return value - down, value + up


def verdict_of(difference: Metric) -> str:
    """Of a difference: better, worse, changed where no direction is good, unclear where the interval holds 0."""
    low, high = difference.low, difference.high
    if low is None or high is None or low <= 0 <= high:
        return "unclear"
    if difference.higher_is_better is None:
        return "changed"
    return "better" if (difference.value > 0) == difference.higher_is_better else "worse"


def outcomes_of(evaluation: Evaluation, key: str) -> Outcomes | None:
    """The per-prompt material of a metric: its own entry, or the prompts of a suite that belong to a task."""
    if key in evaluation.outcomes:
        return evaluation.outcomes[key]
    suite, _, task = key.rpartition("/")
    outcomes = evaluation.outcomes.get(suite)
    if outcomes is None or outcomes.groups is None or task == "overall":
        return outcomes
    inside = [group == task for group in outcomes.groups]
    return Outcomes(outcomes.values[inside]) if any(inside) else None


def table(changes: list[Change], before: str = "before", after: str = "after") -> Table:
    """For the terminal, one of 80 columns too."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    result = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    result.add_column("metric", no_wrap=True)
    for name in (before, after, "change", "95 % interval"):
        result.add_column(name, justify="right", no_wrap=True)
    result.add_column("verdict", min_width=len("unpaired"))
    for change in changes:
        result.add_row(
            change.key,
            change.before.text(interval=False),
            change.after.text(interval=False),
            signed(change.difference),
            change.difference.limits(),
            change.verdict + ("" if change.paired else ", unpaired"),
        )
    return result
