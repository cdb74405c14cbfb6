"""Noise and image of one draw of a teacher, as `stage=pairs reward=null` writes them: what some methods learn from.

The image has to be a function of the noise: a coupling (eps, x0) of one trajectory. A sampler that adds noise on the
way, images that a reward chose, and draws of another model are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from t2ilab.build import Node, build
from t2ilab.export.denoiser import packages
from t2ilab.export.reader import refuse_foreign
from t2ilab.pairs import DrawnPairs
from t2ilab.stages.learned import Learned, PairTexts, check_latents
from t2ilab.training.start import Start


class NoisePairs(Learned):
    """The draws of a teacher.

    Args:
        data: of data=pairs.
        start: the teacher.

    Raises:
        ValueError: they are no draws of this teacher, or no function of their noise.
    """

    data: DrawnPairs

    def __init__(self, data: DrawnPairs, start: Start) -> None:
        super().__init__(data)
        check_pairs(data, start)

    def rows(self, encoders: Mapping[str, Any], nodes: Mapping[str, Node]) -> NoiseRows:
        return NoiseRows(
            self.data, PairTexts(self.data.pairs.prompts(), encoders["conditioner"], nodes["conditioner"])
        )


class NoiseRows:
    """Latents, their noise and the encoded prompt, by row numbers: in epoch k the image k mod m of a prompt's m."""

    def __init__(self, data: DrawnPairs, texts: PairTexts) -> None:
        self.pairs, self.texts, self.images = data.pairs, texts, data.pairs.images

    def __len__(self) -> int:
        return len(self.texts)

    def fetch(self, indices: list[int], epochs: list[int]) -> dict[str, Tensor]:
        copies = [epoch % self.images for epoch in epochs]
        drawn = {key: self.pairs.rows(name, indices, copies) for key, name in NAMES.items()}
        return {key: value.float() for key, value in drawn.items()} | self.texts.rows(indices)


NAMES = {"x0": "latents", "eps": "noise"}  # in a batch, and in the files


def check_pairs(data: DrawnPairs, start: Start) -> None:
    """Refuses pairs that say nothing of the way of this teacher from noise to image.

    Raises:
        ValueError: naming data.path and how to draw others.
    """
    manifest, folder = data.pairs.manifest, data.pairs.folder
    check_latents(data, start.opened)
    again = f"draw them with stage=pairs init_from={start.opened.folder} reward=null"
    if data.scored:
        raise ValueError(f"data.path={folder}: a reward chose these images, and the rest is gone; {again}")
    (parent,) = manifest["parents"]
    if parent["digest"] != start.digest:
        raise ValueError(
            f"data.path={folder}: {parent['path']} drew these pairs, which is another model than that of init_from; "
            f"{again}"
        )
    trusted = packages(start.opened.nodes)
    refuse_foreign({"sampler": manifest["sampler"]}, trusted, f"data.path={folder}")
    if build(manifest["sampler"]).is_stochastic:
        raise ValueError(
            f"data.path={folder}: these images were drawn with noise on the way ({data.pairs.drawn_with}), so that "
            f"they do not follow from the noise that they began with; {again} sampler=dpmpp_2m"
        )
