"""What came out, in one sentence written from the numbers, and the ways in which images fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from t2ilab.eval.alignment import task_order
from t2ilab.eval.result import Evaluation, Metric

NAMES = {
    "single_object": "single objects",
    "two_objects": "two objects",
    "counting": "counting",
    "colors": "colours",
    "position": "positions",
    "color_attribution": "colours of two objects",
}
NOT_LEARNED = "not learned"
LEVELS = (  # least share of right images, and what is said of tasks that reach it
    (0.9, "solved"),
    (0.6, "right most of the time"),
    (0.4, "right about half of the time"),
    (0.05, "wrong most of the time"),
    (0.0, NOT_LEARNED),
)
BY_HEART = 2.0  # times the loss on training images, at least
COMMON = 1 / 3  # share of the failures that the most frequent kind needs to be named


def answer(evaluation: Evaluation) -> str:
    """One sentence: which tasks are solved, which fail and how; without a judge, what the losses say."""
    overall = evaluation.get("judge/overall")
    if overall is None:
        return by_heart(evaluation)
    tasks = {task: evaluation[f"judge/{task}"] for task in tasks_of(evaluation)}
    head = f"{overall.number(overall.value)} of the prompts come out right"
    if not tasks:
        return head + "."
    levels = by_level(tasks)
    if len(levels) == 1 and levels[0][0] == NOT_LEARNED:
        return f"{head}: no task is learned yet{_how(evaluation, list(tasks))}."
    parts = [f"{_and([name(t) for t in found])} {_are(found)} {said}" for said, found in levels]
    return f"{head}: {'; '.join(parts)}{_how(evaluation, list(tasks))}."


def by_heart(evaluation: Evaluation) -> str:
    """What the losses on training and held-out images say together; empty where one of them is missing."""
    held_out, trained = evaluation.get("loss/heldout"), evaluation.get("loss/train")
    if held_out is None or trained is None or held_out.low is None or trained.high is None:
        return ""
    numbers = trained.number(trained.value), held_out.number(held_out.value)
    losses = f"the loss is {numbers[0]} on training images, {numbers[1]} on others"
    if held_out.low > BY_HEART * trained.high:
        return f"It has learned its training images by heart: {losses}."
    if held_out.low > trained.high:
        return f"It knows its training images better than others: {losses}."
    return f"No sign that it has learned its training images by heart: {losses}."


def tasks_of(evaluation: Evaluation) -> list[str]:
    """The judged tasks in their order."""
    keys = [key.removeprefix("judge/") for key in evaluation if key.startswith("judge/")]
    return task_order([key for key in keys if key != "overall"])


def by_level(tasks: dict[str, Metric]) -> list[tuple[str, list[str]]]:
    """The tasks by what is said of them, best first."""
    found: dict[str, list[str]] = {}
    for task, metric in sorted(tasks.items(), key=lambda item: -item[1].value):
        said = next(words for least, words in LEVELS if metric.value >= least)
        found.setdefault(said, []).append(task)
    return list(found.items())


def failures(evaluation: Evaluation) -> list[tuple[str, dict[str, int], int]]:
    """(task, number of images by kind of failure, images that fail) of every task, worst first."""
    known = evaluation.meta.get("failures") or {}
    rows = [(task, dict(kinds), sum(kinds.values())) for task, kinds in known.items()]
    return sorted(rows, key=lambda row: -row[2])


def name(task: str) -> str:
    """A task in words."""
    return NAMES.get(task, task.replace("_", " "))


def _how(evaluation: Evaluation, tasks: Sequence[str]) -> str:
    """The most frequent way to fail, where one stands out."""
    total: Counter[str] = Counter()
    for task, kinds, _ in failures(evaluation):
        total.update(kinds if task in tasks else {})
    if not total:
        return ""
    kind, count = total.most_common(1)[0]
    return f"; most often {_said(kind)}" if count >= COMMON * total.total() else ""


def _said(kind: str) -> str:
    return f"the images show a {kind}" if kind.startswith("wrong") else kind


def _are(tasks: Sequence[str]) -> str:
    return "is" if list(tasks) == ["counting"] else "are"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
