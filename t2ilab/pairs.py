"""Images that a model drew for prompts, on the disk: what `stage=pairs` writes and `data=pairs` reads.

    export/  t2ilab.json  prompts.json
             shards/00000.safetensors ...    arrays of n kept prompts each, m images of each:
                 latents, noise  (n, m, C, H, W) float16     noise: standard normal, what the sampler began with
                 rows            (n, m) int64                of the noise: it is a function of (seed, row)
                 scores          (n, m) float32              by the reward, best first; absent without one
                 prompts         (n,) int64                  numbers of their texts in prompts.json

With m = 2 and scores the first image is the winner.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2ilab.data.sets import DataSet
from t2ilab.export.manifest import MANIFEST, as_parent, check_files, file_digest, manifest_of
from t2ilab.files import whole_file

SHARDS = "shards"
PROMPTS = "prompts.json"


@dataclass(frozen=True)
class Kept:
    """What is kept of the images of some prompts.

    Attributes:
        arrays: as in the files, n prompts.
        ties: prompts that were dropped because no image was better than another.
    """

    arrays: dict[str, Tensor]
    ties: int = 0


def chosen(scores: Tensor | None, arrays: Mapping[str, Tensor], *, keep: str, least_gap: float) -> Kept:
    """Keeps the best and the worst image of each prompt, or all with the best first; drops ties.

    Args:
        scores: (n, k) by the reward, or None: everything is kept as it was drawn.
        arrays: `prompts` (n,), the others (n, k, ...).
        keep: `ends` or `all`.
        least_gap: best and worst scores that differ by no more are a tie.
    """
    if scores is None:
        return Kept(dict(arrays))
    order = scores.argsort(dim=1, descending=True, stable=True)
    if keep == "ends":
        order = order[:, [0, -1]]
    ranked = scores.gather(1, order)
    decided = ranked[:, 0] - ranked[:, -1] > least_gap
    rows = torch.arange(len(scores))[:, None]
    own = {
        name: (value if name == "prompts" else value[rows, order])[decided] for name, value in arrays.items()
    }
    return Kept(own | {"scores": ranked[decided].float()}, int((~decided).sum()))


def write_shard(folder: Path, number: int, kept: Kept) -> Path:
    """One file of the folder, whole or not at all."""
    from safetensors.torch import save_file

    path = folder / SHARDS / f"{number:05d}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.contiguous() for name, value in kept.arrays.items()}
    with whole_file(path) as part:
        save_file(arrays, part, metadata={"ties": str(kept.ties)})
    return path


def shard_facts(path: Path) -> dict[str, int]:
    """How many prompts a file holds, and how many were ties.

    Raises:
        ValueError: it is no file of pairs.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {"kept": file.get_slice("prompts").get_shape()[0], "ties": int(file.metadata()["ties"])}
    except (SafetensorError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it, and it is drawn again") from error


class PairFiles:
    """The shards of an export, read by rows.

    Its files, which may be many, are looked at when the first row is asked for: what the manifest says is enough to
    see whether they suit a model.

    Attributes:
        folder, manifest: the export.
    """

    def __init__(self, path: str | Path, option: str = "data.path") -> None:
        self.folder, self.manifest = manifest_of(path, kind="pairs", option=option)
        self.where = f"{option}={path}"

    @cached_property
    def shards(self) -> list[Path]:
        """The files of arrays, all there and unchanged.

        Raises:
            ValueError: they are not.
        """
        check_files(self.folder, self.manifest, self.where)
        return sorted((self.folder / SHARDS).glob("*.safetensors"))

    @cached_property
    def ends(self) -> list[int]:
        """The number of the first row behind each shard."""
        return list(accumulate(shard_facts(shard)["kept"] for shard in self.shards))

    @cached_property
    def texts(self) -> list[str]:
        """Of all prompts that were drawn."""
        found: list[str] = json.loads((self.folder / PROMPTS).read_text())
        return found

    def __len__(self) -> int:
        """Prompts with kept images."""
        return self.ends[-1]

    @property
    def parent(self) -> dict[str, str]:
        return as_parent(self.folder, self.manifest)

    @cached_property
    def files(self) -> list[Any]:
        from safetensors import safe_open

        return [safe_open(shard, "pt") for shard in self.shards]

    @property
    def names(self) -> list[str]:
        return [] if not self.shards else list(self.files[0].keys())

    @property
    def images(self) -> int:
        """Kept images of a prompt, m."""
        return int(self.files[0].get_slice("rows").get_shape()[1])

    def rows(self, name: str, indices: Sequence[int], copies: Sequence[int] | None = None) -> Tensor:
        """Rows of an array, (n, ...); with `copies` the image of that number of each row alone."""
        if copies is None:
            return torch.stack([self._row(name, int(index)) for index in indices])
        places = zip(indices, copies, strict=True)
        return torch.stack([self._row(name, int(index), int(copy)) for index, copy in places])

    def all_of(self, name: str) -> Tensor:
        """A whole array, (len(self), ...)."""
        return torch.cat([file.get_tensor(name) for file in self.files])

    def prompts(self) -> list[str]:
        """The text of every row."""
        return [self.texts[number] for number in self.all_of("prompts").tolist()]

    def _row(self, name: str, index: int, *copy: int) -> Tensor:
        shard = next(number for number, end in enumerate(self.ends) if index < end)
        before = self.ends[shard - 1] if shard else 0
        return self.files[shard].get_slice(name)[(index - before, *copy)]

    @property
    def drawn_with(self) -> str:
        """Sampler and guidance of the images, in a few words."""
        sampler, guidance = (self.manifest[name] for name in ("sampler", "guidance"))
        scale = guidance.get("scale")
        steps = (sampler.get("grid") or {}).get("steps") or len(sampler.get("times", ()))
        names = [node["_target_"].rpartition(".")[2] for node in (sampler, guidance)]
        return f"{names[0]} in {steps} steps, guidance {names[1]}" + (f" {scale:g}" if scale else "")

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "files"}


class DrawnPairs(DataSet):
    """What a model drew for its prompts, as latents: winner and loser by a reward, or noise and images.

    Args:
        path: run folder of stage=pairs, or its export.
        resolution: pixels of the images; None for whatever the model drew.
        batch_size: pairs of an optimizer step.  workers: processes that fetch ahead.
    """

    holds = "pairs"

    def __init__(self, *, path: str, resolution: int | None = None, batch_size: int, workers: int) -> None:
        super().__init__(batch_size=batch_size, workers=workers)
        self.pairs = PairFiles(path)
        drawn = self.pairs.manifest["resolution"]
        if resolution not in (None, drawn):
            raise ValueError(
                f"data.resolution={resolution}: the images of data.path={path} have {drawn} px; omit data.resolution"
            )

    @property
    def scored(self) -> bool:
        """Whether a reward chose the images; the first of each prompt is then the best."""
        return self.pairs.manifest["reward"] is not None

    def refuse_unscored(self) -> None:
        """For those who learn from better and worse images.

        Raises:
            ValueError: no reward chose.
        """
        if not self.scored:
            raise ValueError(
                f"data.path={self.pairs.folder}: these images were drawn with reward=null, so none is better than "
                "another; draw them with stage=pairs reward=judge, for instance"
            )

    def __len__(self) -> int:
        return len(self.pairs)

    def order(self, seed: int) -> Any:
        from t2ilab.data.order import EpochOrder

        return EpochOrder(len(self.pairs), self.batch_size, seed)

    def digest(self) -> str:
        return file_digest(self.pairs.folder / MANIFEST)

    def preview_prompts(self) -> list[str]:
        return list(dict.fromkeys(self.pairs.prompts()))[:8]

    def image_splits(self) -> dict[str, dict[str, Any]]:
        return {"train": {"number": self.pairs.images * len(self), "digest": self.digest()}}

    def facts(self) -> dict[str, Any]:
        manifest = self.pairs.manifest
        drawn = {name: manifest[name] for name in ("sampler", "guidance", "reward", "parents")}
        return {"pairs": self.pairs.parent | drawn}

    def summary(self) -> str:
        """Number of prompts, and how their images were drawn."""
        stage = self.pairs.manifest["parents"][0]["stage"]
        if self.scored:
            return f"{len(self)} pairs drawn by stage={stage}"
        each = f"{len(self)} prompts x {self.pairs.images} images with their noise"
        return f"{each}, drawn by stage={stage} with {self.pairs.drawn_with}"


def groups_of(count: int, size: int) -> Iterator[range]:
    """0 .. count - 1 in consecutive parts."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
