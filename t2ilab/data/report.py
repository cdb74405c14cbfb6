"""The data report: what was found in a folder, what is used, and why the rest is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from t2ilab.core.characters import printable

BY_KIND = "images with captions"  # a fact: how many images have captions of each kind
STRAYS = "rows of metadata that name no image"  # a fact: how many, by the likely reason


class Reason(StrEnum):
    """Why an image or a caption is not used."""

    CORRUPT = "corrupt"
    UNSUPPORTED = "unsupported"
    TOO_SMALL = "too small"
    NO_CAPTION = "no caption"
    EMPTY_CAPTION = "empty caption"
    UNREADABLE_CAPTION = "unreadable caption"
    CAPTION_WITHOUT_IMAGE = "caption without image"
    DUPLICATE_PATH = "duplicate path in metadata"
    UNREADABLE_FOLDER = "unreadable folder"
    BROKEN_CHARACTER = "broken character"


@dataclass(frozen=True)
class Drop:
    """One image or one caption that is not used.

    Attributes:
        path: relative to the folder; for a row of metadata, the file and the line.
        reason: the kind of fault.
        detail: what is the matter with this one, or "".
    """

    path: str
    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        """Names of files may hold what no terminal, JSON or HTML can: it is escaped here, for all of them."""
        object.__setattr__(self, "path", printable(self.path))
        object.__setattr__(self, "detail", printable(self.detail))


@dataclass(frozen=True)
class DataReport:
    """found = used + number of dropped images, always; captions are accounted for beside them.

    Attributes:
        path: the folder.
        found: image files in it.
        used: images that training or validation may see.
        images: the dropped images.
        captions: the captions that belong to no image, or to one that has its caption already.
        splits: used images by split.
        buckets: training images by height x width, where they keep different shapes.
        facts: numbers about the used images, for the reader.
        mended: the captions that are used with U+FFFD in place of characters that cannot be written.
    """

    path: str
    found: int
    used: int
    images: tuple[Drop, ...] = ()
    captions: tuple[Drop, ...] = ()
    splits: Mapping[str, int] = field(default_factory=dict)
    buckets: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    mended: tuple[Drop, ...] = ()

    def __post_init__(self) -> None:
        assert self.found == self.used + len(self.images), "an image is neither used nor dropped by name"

    def counts(self) -> dict[str, int]:
        """Number of dropped images and captions by reason, the most frequent first."""
        return dict(Counter(str(drop.reason) for drop in self.images + self.captions).most_common())

    def text(self, examples: int = 3) -> str:
        """A few lines for the terminal, with the first `examples` of each fault."""
        splits = ", ".join(f"{name} {size}" for name, size in self.splits.items())
        lines = [
            f"{self.path}: {self.found} images found = {self.used} used + {len(self.images)} dropped",
            *([f"  used: {splits}"] if splits else []),
            *(f"  {note}" for note in self.notes()),
            *self._faults("dropped", self.images, examples),
            *self._faults("ignored", self.captions, examples),
            *self._faults("mended", self.mended, examples),
        ]
        return "\n".join(lines)

    def notes(self) -> list[str]:
        """What else there is to know of the used images: their shapes, and where their captions come from."""
        shapes = ", ".join(f"{shape}: {size}" for shape, size in self.buckets.items())
        notes = [f"height x width: {shapes}"] if shapes else []
        for name in (BY_KIND, STRAYS):
            parts = [f"{kind}: {size}" for kind, size in self.facts.get(name, {}).items()]
            notes += [f"{name}: {', '.join(parts)}"] if parts else []
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values for JSON and HTML."""
        return {**asdict(self), "counts": self.counts()}

    @staticmethod
    def _faults(verb: str, drops: tuple[Drop, ...], examples: int) -> list[str]:
        lines = []
        for reason, number in Counter(drop.reason for drop in drops).most_common():
            named = [drop for drop in drops if drop.reason is reason][:examples]
            shown = "; ".join(f"{drop.path} ({drop.detail})" if drop.detail else drop.path for drop in named)
            more = f"; and {number - len(named)} more" if number > len(named) else ""
            lines.append(f"  {verb}: {number} {reason}: {shown}{more}")
        return lines


def joined_reports(reports: Mapping[str, DataReport]) -> DataReport | None:
    """The reports of several folders, by name, as one; None of none."""
    if not reports:
        return None
    parts = list(reports.values())
    splits: Counter[str] = Counter()
    for part in parts:
        splits.update(part.splits)

    def drops(kind: str) -> tuple[Drop, ...]:
        return tuple(
            replace(drop, path=f"{name}: {drop.path}")
            for name, part in reports.items()
            for drop in getattr(part, kind)
        )

    return DataReport(
        path=" + ".join(part.path for part in parts),
        found=sum(part.found for part in parts),
        used=sum(part.used for part in parts),
        images=drops("images"),
        captions=drops("captions"),
        mended=drops("mended"),
        splits=dict(splits),
        facts={name: part.facts for name, part in reports.items()},
    )
