"""Kinds of adapters: few new weights beside frozen layers, which alone are trained.

With W (out x in) the weights of a layer, B (out x r) and A (r x in) of rank r:

    LoRA    W + s B A,  s = alpha / r, or alpha / sqrt(r) with rank-stabilised scaling;  B starts at 0
    DoRA    m (W + s B A) / |W + s B A|,  the norm of every row, m trained and starting at that of W
    PiSSA   (W - s B0 A0) + s B A,  B and A start at B0 and A0, the r largest singular directions of W
    LoHa    W + s (B1 A1) * (B2 A2),  element by element
    LoKr    W + s C (x) B A,  a Kronecker product

Sources: Hu et al. 2021, arXiv 2106.09685; Kalajdzievski 2023, arXiv 2312.03732; Liu et al. 2024, arXiv 2402.09353;
Meng et al. 2024, arXiv 2404.02948; Hyeon-Woo et al. 2021, arXiv 2108.06098; Yeh et al. 2023, arXiv 2309.14859.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

KNOWN = {  # words for `targets`
    "attention": r"(.*\.)?(attention\.(qkv|out)|cross\.(q|kv|out)|text_kv|to_q|to_k|to_v|to_out\.0)",
    "all": r".*\.\d+\..*",  # every layer of every block
}
INITS = ("gaussian", "kaiming", "pissa")


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What an adapter is, before it meets a network.

    Args:
        rank: r.
        alpha: numerator of the scale s.
        targets: layers that get one: attention, all (those of all blocks), or endings of their names.
    """

    rank: int
    alpha: float
    targets: str | Sequence[str]

    convolutions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"adapter.rank must be at least 1, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"adapter.alpha must be positive, got {self.alpha}")
        if isinstance(self.targets, str) and self.targets not in KNOWN:
            raise ValueError(
                f"adapter.targets must be one of {', '.join(KNOWN)}, or a list of endings of layer names, got "
                f"{self.targets!r}"
            )
        if not self.targets:
            raise ValueError("adapter.targets must not be empty")

    @property
    def begins_inside(self) -> bool:
        """Whether it starts as a part of the weights, which are changed for that."""
        return False

    @property
    def scale(self) -> float:
        """s."""
        return self.alpha / self.rank

    def config(self, layers: str | list[str]) -> Any:
        """peft's config.

        Args:
            layers: names of the layers: a regular expression or a list of endings.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LoRA(Adapter):
    """LoRA, DoRA, and PiSSA.

    Args:
        init: of A: gaussian (std 1 / rank) or kaiming, with B = 0; or pissa.
        rslora: scale alpha / sqrt(rank).
        dora: train the norms of the rows as well.
    """

    init: str
    rslora: bool
    dora: bool

    convolutions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in INITS:
            raise ValueError(f"adapter.init must be one of {', '.join(INITS)}, got {self.init!r}")
        if self.init == "pissa" and (self.dora or self.rslora):
            raise ValueError(
                "adapter.init=pissa goes with neither adapter.dora nor adapter.rslora: choose one"
            )

    @property
    def begins_inside(self) -> bool:
        return self.init == "pissa"

    @property
    def scale(self) -> float:
        return self.alpha / self.rank**0.5 if self.rslora else super().scale

    def config(self, layers: str | list[str]) -> Any:
        from peft import LoraConfig

        return LoraConfig(
            r=self.rank,
            lora_alpha=cast(int, self.alpha),  # peft divides it by the rank, whole or not
            target_modules=layers,
            init_lora_weights=True
            if self.init == "kaiming"
            else cast(Literal["gaussian", "pissa"], self.init),
            use_rslora=self.rslora,
            use_dora=self.dora,
        )


@dataclass(frozen=True, kw_only=True)
class LoHa(Adapter):
    """A Hadamard product of two low ranks: rank up to r^2 at the weights of 2 r."""

    def config(self, layers: str | list[str]) -> Any:
        from peft import LoHaConfig

        return LoHaConfig(r=self.rank, alpha=cast(int, self.alpha), target_modules=layers)


@dataclass(frozen=True, kw_only=True)
class LoKr(Adapter):
    """A Kronecker product of a small matrix and a low rank."""

    def config(self, layers: str | list[str]) -> Any:
        from peft import LoKrConfig

        return LoKrConfig(r=self.rank, alpha=cast(int, self.alpha), target_modules=layers)
