"""How published preference data are laid out: what a row says, told by its columns.

    Pick-a-Pic       caption, jpg_0, jpg_1, label_0, label_1 (1, 0, or 0.5 for a tie), has_label
    HPD v2           prompt, file_path [2], human_preference [2];  or  prompt, image_path [n], rank [n]
    HPD v3           prompt, path1, path2: the first was preferred, unless choice_dist is even; confidence
    ImageRewardDB    prompt, generations [n], ranking [n];  prompt, image [n], rank [n];  or a row per image:
                     prompt_id, prompt, image or image_path, rank

Less is better in `rank` and `ranking`.
Sources: the data cards of yuvalkirstain/pickapic_v1, ymhao/HPDv2, MizzenAI/HPDv3 (as its training code reads it) and
THUDM/ImageRewardDB.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Place = tuple[str, int | None]
"""Column of an image, and its number where the column holds a list."""


@dataclass(frozen=True)
class Said:
    """What a row says: a comparison, or one image of a comparison that several rows make up.

    Attributes:
        places: of the images; costs: of each, less is better.
        group: what the rows of one comparison share; None where a row is a whole one.
        confidence: share of the annotators who agree, where it is given.
    """

    prompt: str
    places: Sequence[Place]
    costs: Sequence[float]
    group: str | None = None
    confidence: float | None = None


@dataclass(frozen=True)
class Layout:
    """A form of rows.

    Attributes:
        name: for the report.
        needed: columns; lists: those of them that hold lists, and others that do not.
        read: a row to what it says, or to the reason why it says nothing.
    """

    name: str
    needed: frozenset[str]
    read: Callable[[Mapping[str, Any]], Said | str]
    lists: str | None = None
    single: str | None = None

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has this form."""
        if not self.needed <= row.keys():
            return False
        wanted = self.lists is None or isinstance(row[self.lists], list)
        return wanted and (self.single is None or not isinstance(row[self.single], list))

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(sorted(self.needed))})"


def _pick_a_pic(row: Mapping[str, Any]) -> Said | str:
    labels = (row["label_0"], row["label_1"])
    if row.get("has_label") is False or None in labels:
        return "no label"
    return Said(row["caption"], [("jpg_0", None), ("jpg_1", None)], [-label for label in labels])


def _listed(images: str, costs: str, sign: int = 1) -> Callable[[Mapping[str, Any]], Said | str]:
    """Reads a row with a list of images and a list of numbers; `sign` -1 where more is better."""

    def read(row: Mapping[str, Any]) -> Said | str:
        given, found = row[costs] or [], row[images] or []
        if len(given) != len(found) or any(cost is None for cost in given):
            return "no label"
        return Said(row["prompt"], [(images, n) for n in range(len(found))], [sign * cost for cost in given])

    return read


def _hpd_v3(row: Mapping[str, Any]) -> Said | str:
    votes, sure = row.get("choice_dist"), row.get("confidence")
    even = isinstance(votes, list) and len(votes) == 2 and votes[0] == votes[1]
    confidence = float(sure) if isinstance(sure, int | float) else None
    places = [("path1", None), ("path2", None)]
    return Said(row["prompt"], places, [0, 0 if even else 1], confidence=confidence)


def _one_of_several(image: str) -> Callable[[Mapping[str, Any]], Said | str]:
    def read(row: Mapping[str, Any]) -> Said | str:
        if row["rank"] is None:
            return "no label"
        return Said(row["prompt"], [(image, None)], [row["rank"]], group=str(row["prompt_id"]))

    return read


LAYOUTS = (
    Layout("Pick-a-Pic", frozenset({"caption", "jpg_0", "jpg_1", "label_0", "label_1"}), _pick_a_pic),
    Layout(
        "HPD v2 pairs",
        frozenset({"prompt", "file_path", "human_preference"}),
        _listed("file_path", "human_preference", -1),
    ),
    Layout("HPD v3", frozenset({"prompt", "path1", "path2"}), _hpd_v3),
    Layout(
        "HPD v2 rankings",
        frozenset({"prompt", "image_path", "rank"}),
        _listed("image_path", "rank"),
        lists="rank",
    ),
    Layout(
        "ImageRewardDB rankings",
        frozenset({"prompt", "generations", "ranking"}),
        _listed("generations", "ranking"),
    ),
    Layout(
        "ImageRewardDB groups", frozenset({"prompt", "image", "rank"}), _listed("image", "rank"), lists="rank"
    ),
    *(
        Layout(
            "ImageRewardDB images",
            frozenset({"prompt_id", "prompt", image, "rank"}),
            _one_of_several(image),
            single="rank",
        )
        for image in ("image", "image_path")
    ),
)


def layout_of(row: Any) -> Layout | None:
    """The layout that a row has; None where it is none of these."""
    return next((one for one in LAYOUTS if isinstance(row, dict) and one.fits(row)), None)
