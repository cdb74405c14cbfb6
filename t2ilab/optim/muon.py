"""Muon for matrices, AdamW for the rest, in one optimizer.

A momentum M <- mu M + (1 - mu) G gives the look-ahead direction N = (1 - mu) G + mu M of each weight matrix.
Five Newton-Schulz steps replace its singular values by values near 1 (N = U S V^T -> about U V^T), and

    W <- (1 - lr decay) W - lr max(1, rows / columns)^(1/2) UV^T.

Convolutions count as matrices (out, in * kernel). Matrices of equal shape are orthogonalised in one batch, which
is what makes it affordable on a CPU. Vectors, and the layers named in `exclude` (embeddings, first and last
layers), are left to AdamW.
Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the same update as torch.optim.Muon, which
takes two-dimensional parameters only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from t2ilab.core.precision import has_bf16
from t2ilab.optim.groups import check_numbers, decay_groups

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; chosen for slope at 0, not for convergence to 1
ROUNDS = (2, 3)  # Newton-Schulz steps between two looks at the matrix itself; five in all


def orthogonalised(matrices: Tensor) -> Tensor:
    """About U V^T of each matrix of a batch (n, rows, columns), singular values in [0.7, 1.2].

    A step is X <- p(G) X with G = X X^T and p(G) = a + b G + c G^2. As p(G) commutes with G, several steps are
    multiplied out on the small square side first (G <- p(G) G p(G)), which for a convolution, nine times as
    wide as high, saves half of the work; after each round G is measured again, so that rounding does not pile up. The
    products are taken in bf16 where the hardware has it, else in float32.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    dtype = torch.bfloat16 if has_bf16(matrices.device.type) else torch.float32
    x = (matrices.mT if tall else matrices).to(dtype)
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    if x.shape[2] >= 4 * x.shape[1]:
        for steps in ROUNDS:
            x = _product(x @ x.mT, steps) @ x
    else:
        for _ in range(sum(ROUNDS)):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _product(gram: Tensor, steps: int) -> Tensor:
    """p(G_k) ... p(G_1) p(G_0) for a batch of square G_0, (n, m, m)."""
    a, b, c = COEFFICIENTS
    product = gram
    for step in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if step == 0 else factor @ product
        if step < steps - 1:
            gram = factor @ gram @ factor
    return product


class MuonAdamW(torch.optim.Optimizer):
    """The optimizer described above.

    Args:
        parameters: (name, parameter) pairs.
        lr: of the matrices; a step changes a square matrix by about lr in spectral norm.
        momentum: mu.
        exclude: parts of names; a matrix whose name holds one of them belongs to AdamW.
        adamw_lr, betas, eps: of AdamW.
        weight_decay, no_decay: of both, see `decay_groups`; a parameter shrinks by its own rate times the decay.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        momentum: float,
        exclude: Sequence[str],
        adamw_lr: float,
        betas: Sequence[float],
        eps: float,
        weight_decay: float,
        no_decay: Sequence[str],
    ) -> None:
        check_numbers(lr, betas)
        if not adamw_lr > 0:
            raise ValueError(f"optimizer.adamw_lr must be positive, got {adamw_lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"optimizer.momentum must be in [0, 1), got {momentum}")
        named = list(parameters)
        chosen = [p.ndim >= 2 and not any(part in name for part in exclude) for name, p in named]
        matrices = [pair for pair, is_matrix in zip(named, chosen, strict=True) if is_matrix]
        rest = [pair for pair, is_matrix in zip(named, chosen, strict=True) if not is_matrix]
        of_muon = {"lr": lr, "momentum": momentum}
        of_adamw = {"lr": adamw_lr, "betas": tuple(betas), "eps": eps, "fused": True}
        groups = [group | of_muon for group in decay_groups(matrices, weight_decay, no_decay)]
        groups += [group | of_adamw for group in decay_groups(rest, weight_decay, no_decay)]
        super().__init__([group for group in groups if group["params"]], {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update; `closure`, if given, computes the gradients first, and its value is returned."""
        with torch.enable_grad():
            loss = closure() if closure is not None else None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if "momentum" in group:
                self._muon(parameters, group)
            else:
                self._adamw(parameters, group)
        return loss

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in parameters:
            shapes.setdefault((p.shape[0], p[0].numel()), []).append(p)
        for (rows, columns), members in shapes.items():
            size, kept = (
                group["lr"] * max(1.0, rows / columns) ** 0.5,
                1 - group["lr"] * group["weight_decay"],
            )
            directions = torch.stack(
                [self._direction(p, group["momentum"]).view(rows, columns) for p in members]
            )
            for p, update in zip(members, orthogonalised(directions), strict=True):
                p.mul_(kept).sub_(update.view_as(p), alpha=size)

    def _direction(self, p: nn.Parameter, momentum: float) -> Tensor:
        assert p.grad is not None
        state = self.state[p]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        return p.grad.lerp(state["momentum"].lerp_(p.grad, 1 - momentum), momentum)

    def _adamw(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in parameters:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        states = [self.state[p] for p in parameters]
        adamw(
            list(parameters),
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
