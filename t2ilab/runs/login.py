"""Whether a run that is sent to Weights & Biases at once can be."""

from __future__ import annotations

import inspect
from typing import Any

WANDB = "t2ilab.training.loggers.wandb"


def login_fault(mirror: Any) -> list[str]:
    """A sentence if the node of a mirror sends to Weights & Biases at once and nobody is logged in there.

    Said with the other faults of the options, before an image is encoded. The server is not asked.
    """
    if not isinstance(mirror, dict) or mirror.get("_target_") != WANDB or mirror.get("offline"):
        return []
    import wandb as client

    advice = (
        "run `wandb login`, or set WANDB_API_KEY, or keep logger.mirror.offline=true and `wandb sync` later"
    )
    if client.setup().settings.mode != "online":  # WANDB_MODE
        return []
    try:
        known = _is_known(client)
    except client.Error as error:
        return [f"logger.mirror.offline=false: {str(error).rstrip('.')}; {advice}"]
    return [] if known else [f"logger.mirror.offline=false: nobody is logged in to W&B here; {advice}"]


def _is_known(client: Any) -> bool:
    """Whether the package finds a key or a token; it asks nobody."""
    if "prompt" in inspect.signature(client.login).parameters:
        return bool(client.login(prompt=False, verify=False))
    return bool(client.api.api_key)  # before wandb 0.31
