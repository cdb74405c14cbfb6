"""The text encoder of an export: its files as they are, or with what was trained of it.

    export/  text_encoder/  learned/learned_embeds.safetensors       (vectors of words of its own, by their word)

`learned` is what diffusers' `load_textual_inversion` reads; `text_encoder` holds the weights as they were trained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from t2ilab.build import Node
from t2ilab.export.manifest import carry
from t2ilab.text.base import Conditioner
from t2ilab.text.learned import LearnedWords, is_learned, without_words
from t2ilab.text.several import Several

PART, LEARNED = "text_encoder", "learned"


def save_text(
    conditioner: Conditioner, node: Node, folder: Path, references: dict[str, str], part: str = PART
) -> dict[str, Any]:
    """Writes the files of a text encoder into an export; returns its node, with paths inside the export."""
    if isinstance(conditioner, LearnedWords):
        inner = save_text(conditioner.text_encoder, node["text_encoder"], folder, references, part)
        return words_node(conditioner, node, folder) | {"text_encoder": inner}
    if isinstance(conditioner, Several):
        encoders = {
            name: save_text(cast(Conditioner, encoder), node["encoders"][name], folder, references, name)
            for name, encoder in conditioner.encoders.items()
        }
        return {**node, "encoders": encoders}
    if conditioner.trained:
        conditioner.save(folder / part)
        kept = carry({key: value for key, value in node.items() if key != "path"}, folder, part, references)
        return {**node, **kept, "path": f"./{part}"}
    return carry(node, folder, part, references)


def save_change(
    conditioner: Conditioner, node: Node, base: dict[str, Any], folder: Path, references: dict[str, str]
) -> dict[str, Any]:
    """What an adapter's export holds of a text encoder: nothing if it is its base's, words alone, or all of it.

    Args:
        node, base: of this text encoder and of that of the base.

    Returns:
        {"conditioner": node}, in which a missing `text_encoder` stands for the one of the base; or {}.
    """
    if not is_trained(conditioner) and without_words(node) == without_words(base):
        if not is_learned(node):
            return {}
        assert isinstance(conditioner, LearnedWords)
        return {"conditioner": words_node(conditioner, node, folder) | {"text_encoder": None}}
    return {"conditioner": save_text(conditioner, node, folder, references)}


def words_node(conditioner: LearnedWords, node: Node, folder: Path) -> dict[str, Any]:
    """Writes the words; returns the node that reads them."""
    conditioner.save_words(folder / LEARNED)
    return {**node, "words": {}, "starts": {}, "learned": f"./{LEARNED}"}


def is_trained(conditioner: Conditioner) -> bool:
    """Whether the weights of a text encoder are not those of its files, beside the words."""
    return any(
        module.trained
        for module in conditioner.modules()
        if isinstance(module, Conditioner) and not isinstance(module, LearnedWords)
    )


def learns(conditioner: Conditioner) -> bool:
    """Whether words or weights of a text encoder have been trained in this run."""
    return any(module.trained for module in conditioner.modules() if isinstance(module, Conditioner))
