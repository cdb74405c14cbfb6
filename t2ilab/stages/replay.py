"""Replay: old data among the new, so that a model that goes on learning forgets less of what it could.

Source: Ibrahim et al. 2024, arXiv 2403.08763: with a share of 5 to 50 % of the old data (more where new and old
differ more) the loss on the old data stays near that of training on both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2ilab.build import Node, is_node
from t2ilab.data.mixture import quotas
from t2ilab.stages.faults import is_a, raised

SHARED = ("resolution", "batch_size", "workers")  # what a mixture gives all its sources


def with_replay(new: Node, old: Node | None, share: float) -> dict[str, Any]:
    """The node of the data of a run: `new`, with a share of every batch from `old`.

    Mixtures on either side are opened, so that a model may go on several times and still see its first data. The
    new data measure the run.

    Raises:
        ValueError: the old data are not known, not on this machine, or have no row in a batch.
    """
    if share == 0:
        return dict(new)
    if not is_node(old):
        raise ValueError("stage.replay: the export does not say its data; stage.replay=0 trains without them")
    sources, weights = {}, {}
    for side, node, part in (("new", new, 1 - share), ("old", old, share)):
        for name, (source, weight) in _sources(side, node).items():
            sources[name], weights[name] = source, part * weight
            _check(name, source, share)
    if raised(lambda: quotas(weights, new["batch_size"])):
        raise ValueError(
            f"stage.replay={share}: a batch of {new['batch_size']} has no row for each of {', '.join(weights)}: "
            "raise data.batch_size, or set stage.replay=0"
        )
    return {
        "_target_": "t2ilab.data.mixture.Mixture",
        "sources": sources,
        "weights": weights,
        "val": _val(new),
        **{name: new[name] for name in SHARED},
    }


def _sources(side: str, node: Node) -> dict[str, tuple[dict[str, Any], float]]:
    """What a data node reads, by name, each as a node that waits for SHARED, with its share."""
    if not is_a(node, "t2ilab.data.mixture.Mixture"):
        return {
            side: (
                {key: value for key, value in node.items() if key not in SHARED} | {"_partial_": True},
                1.0,
            )
        }
    total = sum(node["weights"].values())
    return {
        f"{side}_{name}": (dict(source), node["weights"][name] / total)
        for name, source in node["sources"].items()
    }


def _val(new: Node) -> str:
    return f"new_{new['val']}" if is_a(new, "t2ilab.data.mixture.Mixture") else "new"


def _check(name: str, source: Node, share: float) -> None:
    if source.get("buckets"):
        raise ValueError(
            f"stage.replay={share}: a batch with replay holds images of one shape; choose data=folder, or "
            "stage.replay=0"
        )
    if source.get("path") and not Path(source["path"]).expanduser().exists():
        raise ValueError(
            f"stage.replay={share}: the data of init_from lay in {source['path']}, which is not here; stage.replay=0 "
            "trains without them"
        )
