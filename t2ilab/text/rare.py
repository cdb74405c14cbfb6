"""The rare word of DreamBooth: one token of the text encoder that its captions never used.

Source: Ruiz et al. 2022, arXiv 2208.12242, section 3.2: a word of several tokens drags the meaning of its pieces
along, and a frequent one has a meaning that has to be unlearned first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from t2ilab.text.base import Conditioner

CANDIDATES = ("zwx", "sks", "ohwx", "qzv", "xjy", "vfk", "bnha", "pktu", "shs", "olis")
RARE = 1e-3  # largest share of captions that hold a rare word


def rare_word(
    conditioner: Conditioner,
    captions: Sequence[str],
    token: str | None,
    *,
    alone: bool = True,
    taken: Collection[str] = (),
) -> str:
    """The word for the subject: `token`, if it is rare, or the first of some that is.

    Args:
        captions: of the images that the model has been trained on, some of them.
        alone: whether the text encoder has to read it as one token; not where it gets vectors of its own.
        taken: words of other subjects, which are not chosen.

    Raises:
        ValueError: `token` is not rare, saying why; or none of the words is.
    """
    if token is not None:
        why = not_rare(conditioner, captions, token, alone=alone)
        if why:
            raise ValueError(
                f"stage.token={token} {why}; choose another word, or omit it and one is looked for"
            )
        return token
    free = [word for word in CANDIDATES if word not in taken]
    reasons = {word: not_rare(conditioner, captions, word, alone=alone) for word in free}
    for word, why in reasons.items():
        if not why:
            return word
    listing = "; ".join(f"{word} {why}" for word, why in reasons.items())
    raise ValueError(f"stage.token: no rare word is known for this text encoder ({listing}): choose one")


def not_rare(conditioner: Conditioner, captions: Sequence[str], word: str, *, alone: bool = True) -> str:
    """Why a word does not do as a rare one; "" if it does."""
    if not re.fullmatch(r"\w+", word):
        return "is no single word"
    pieces = conditioner.pieces(word)
    if alone and len(pieces) != 1:
        return f"is not one token of the text encoder but {len(pieces)}: {' '.join(pieces)}"
    having = sum(word.lower() in re.findall(r"\w+", text.lower()) for text in captions)
    if having > RARE * max(len(captions), 1):
        return f"is a word of {having} of {len(captions)} captions that the model was trained on"
    return ""
