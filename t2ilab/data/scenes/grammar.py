"""Words and truths: a requirement is what a text asks for; `tell` writes it down and `parse` reads it back.

    prompt     := [opening] things [background] [style]
    opening    := ("a" | "an") ("picture" | "image") "of"  |  "there" ("is" | "are")
    things     := group relation group  |  group ("and" group)*
    group      := number [size] [color] shape ["with a" color "belly"]
    background := "on a" name "background"          style := "in" name "style"

All lower case; `vocabulary()` lists every word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from t2ilab.data.scenes.world import BACKGROUNDS, COLORS, SHAPES, STYLES, TEDDY, Scene

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
OPENINGS = ("", "a picture of", "an image of", "there is")
KINDS = ("short", "sparse", "paraphrase", "long", "instance", "class")
TEXTS = {"paraphrase": 2, "sparse": 4}  # captions of a kind, where there is more than one
# eighths of the sparse captions that name it
SPARSE = {"color": 4, "relation": 3, "size": 1, "background": 1}
SUBJECT_WORD = "zwx"  # the rare word of the subject's teddy bear, for DreamBooth
SUBJECT_LOOK = ("purple", "sky")  # bear and mark: no other word says it


@dataclass(frozen=True)
class Want:
    """One thing asked for; None leaves an attribute open."""

    shape: str
    color: str | None = None
    size: str | None = None
    belly: str | None = None
    mark: str | None = None


@dataclass(frozen=True)
class Requirement:
    """What a text asks for: exactly these things and no others.

    Attributes:
        wants: the things.
        relation: where wants[0] lies seen from wants[1], or None.
        background, style: names, or None if left open.
    """

    wants: tuple[Want, ...]
    relation: str | None = None
    background: str | None = None
    style: str | None = None

    def canonical(self) -> Requirement:
        """The one form of all requirements that mean the same, for comparison."""
        if self.relation in ("right of", "below"):
            swapped = (self.wants[1], self.wants[0], *self.wants[2:])
            return replace(self, wants=swapped, relation=INVERSE[self.relation])
        if self.relation is None:
            return replace(self, wants=tuple(sorted(self.wants, key=repr)))
        return self


@dataclass(frozen=True)
class Wording:
    """How a requirement is put into words: which synonym, which opening, which end of the relation first."""

    opening: int = 0
    synonym: int = 0
    inverse: bool = False
    subject: bool = False


def requirement_of(scene: Scene, named: frozenset[str] | None = None) -> Requirement:
    """What is true of a scene, restricted to the named attributes (default: those of its short caption)."""
    named = scene.named if named is None else named
    wants = tuple(
        Want(
            item.shape,
            item.color if "color" in named else None,
            item.size if "size" in named else None,
            item.belly if "belly" in named else None,
            item.mark if "mark" in named else None,
        )
        for item in scene.objects
    )
    return Requirement(
        wants,
        scene.relation if "relation" in named else None,
        scene.background if "background" in named else None,
        scene.style if "style" in named else None,
    )


EVERYTHING = frozenset({"color", "size", "relation", "background", "style", "belly", "mark"})


def tell(requirement: Requirement, wording: Wording = Wording()) -> str:
    """The requirement in words."""
    if requirement.relation and wording.inverse:
        first, second = requirement.wants
        requirement = replace(requirement, wants=(second, first), relation=INVERSE[requirement.relation])
    groups = grouped(requirement)
    phrases = [_phrase(want, number, wording) for want, number in groups]
    joint = RELATION_WORDS[requirement.relation][wording.synonym] if requirement.relation else "and"
    text = f" {joint} ".join(phrases)
    opening = OPENINGS[wording.opening]
    if opening == "there is" and groups[0][1] > 1:
        opening = "there are"
    text = f"{opening} {text}" if opening else text
    if requirement.background:
        text += f" on a {requirement.background} background"
    if requirement.style:
        text += f" in {requirement.style} style"
    return text


def captions(scene: Scene, kinds: tuple[str, ...] = ("short", "long", "paraphrase")) -> list[str]:
    """The captions of a scene.

    Kinds: short (the attributes in scene.named), sparse (four, which leave more open, each something else; as a
    prompt of few words does), long (every attribute), paraphrase (two: the short one in
    other words), instance (the subject under its rare word), class (a teddy bear, nothing else).
    """
    if set(kinds) - set(KINDS) or not kinds:
        raise ValueError(f"caption_kinds must be among {', '.join(KINDS)}; got {kinds}")
    short, texts = requirement_of(scene), []
    for kind in kinds:
        if kind == "short":
            texts.append(tell(short))
        elif kind == "long":
            texts.append(tell(requirement_of(scene, EVERYTHING)))
        elif kind == "sparse":
            texts += [tell(requirement_of(scene, _some(scene, number))) for number in range(TEXTS["sparse"])]
        elif kind == "paraphrase":
            texts.append(tell(short, Wording(opening=1 + scene.grain % 3)))
            texts.append(tell(short, Wording(opening=scene.grain % 2, synonym=1, inverse=True)))
        elif kind == "instance":
            texts.append(tell(requirement_of(scene, frozenset({"mark", "color"})), Wording(subject=True)))
        else:
            texts.append(tell(requirement_of(scene, frozenset())))
    return texts


def _some(scene: Scene, number: int) -> frozenset[str]:
    """What sparse caption `number` names: by three bits of the scene's grain for each attribute."""
    bits = scene.grain >> 3 * len(SPARSE) * number
    named = {name for k, (name, eighths) in enumerate(SPARSE.items()) if (bits >> 3 * k) % 8 < eighths}
    if "relation" in named and scene.relation and scene.objects[0].shape == scene.objects[1].shape:
        named.add("color")  # "a star above a star" says nothing
    return frozenset(named)


def grouped(requirement: Requirement) -> list[tuple[Want, int]]:
    """Equal things counted; in a relation each stands alone."""
    if requirement.relation:
        return [(want, 1) for want in requirement.wants]
    counts: dict[Want, int] = {}
    for want in requirement.wants:
        counts[want] = counts.get(want, 0) + 1
    return list(counts.items())


def _phrase(want: Want, number: int, wording: Wording) -> str:
    if wording.subject and (want.color, want.mark) == SUBJECT_LOOK:
        return f"a {SUBJECT_WORD} {want.shape}"
    words = [SIZE_WORDS[want.size][wording.synonym]] if want.size else []
    words += [want.color] if want.color else []
    words += [want.shape if number == 1 else _plural(want.shape)]
    text = " ".join(words)
    if want.belly:
        text += f" with a{'n' if want.belly[0] in 'aeiou' else ''} {want.belly} belly"
    if number > 1:
        return f"{list(NUMBERS)[number - 1]} {text}"
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _any_of(words: object) -> str:
    return "|".join(sorted(words, key=len, reverse=True))  # type: ignore[call-overload]


_SIZE_OF = {word: size for size, words in SIZE_WORDS.items() for word in words}
_RELATION_OF = {word: relation for relation, words in RELATION_WORDS.items() for word in words}
_SHAPE_OF = {name: s for s in (*SHAPES, TEDDY) for name in (s, _plural(s))}
_PROMPT = re.compile(
    r"(?:(?:an?|the) (?:picture|image|photo) of |there (?:is|are) )?(?P<things>.+?)"
    rf"(?: on an? (?P<background>{_any_of(BACKGROUNDS)}) background)?"
    rf"(?: in (?P<style>{_any_of(STYLES)}) style)?"
)
_GROUP = re.compile(
    rf"(?P<number>an?|one|two|three|four) (?:(?P<size>{_any_of(_SIZE_OF)}) )?"
    rf"(?:(?P<color>{_any_of(COLORS)}|{SUBJECT_WORD}) )?(?P<shape>{_any_of(_SHAPE_OF)})"
    rf"(?: with an? (?P<belly>{_any_of(COLORS)}) belly)?"
)
_RELATION = re.compile(rf" (?:that is )?({_any_of(_RELATION_OF)}) ")


def parse(text: str) -> Requirement | None:
    """What a prompt of the grammar asks for; None if it is not of the grammar or wants over four things."""
    text = " ".join(re.sub(r"[.,!]", " ", text.lower().replace(",", " and ")).split())
    text = text.replace("and and", "and")
    prompt = _PROMPT.fullmatch(text)
    if prompt is None:
        return None
    parts = _RELATION.split(prompt["things"])
    relation = _RELATION_OF[parts[1]] if len(parts) == 3 else None
    if len(parts) not in (1, 3):
        return None
    groups = [_read_group(part) for part in ((parts[0], parts[2]) if relation else parts[0].split(" and "))]
    if any(group is None or (relation and len(group) > 1) for group in groups):
        return None
    wants = tuple(want for group in groups if group for want in group)
    return Requirement(wants, relation, prompt["background"], prompt["style"]) if len(wants) <= 4 else None


def _read_group(text: str) -> list[Want] | None:
    match = _GROUP.fullmatch(text)
    if match is None:
        return None
    number = NUMBERS.get(match["number"], 1)
    shape, color, belly = _SHAPE_OF[match["shape"]], match["color"], match["belly"]
    mark = None
    if (match["shape"] != shape) != (number > 1) or (belly and shape != TEDDY):
        return None
    if color == SUBJECT_WORD:
        if shape != TEDDY or belly:
            return None
        color, mark = SUBJECT_LOOK
    return [Want(shape, color, _SIZE_OF.get(match["size"]), belly, mark)] * number


def vocabulary() -> list[str]:
    """Every word that `tell` can write, sorted."""
    names = [*_SHAPE_OF, *COLORS, *BACKGROUNDS, *STYLES, *_SIZE_OF, *_RELATION_OF, *NUMBERS, *OPENINGS]
    names += ["a an and on in background style with belly there are", SUBJECT_WORD]
    return sorted({word for name in names for word in name.split()})
