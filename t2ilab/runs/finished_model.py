"""The finished model of `init_from`, with what the options of a command put in place of its own parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from t2ilab.build import Config, Node, build
from t2ilab.core.precision import resolved
from t2ilab.export.denoiser import Artifact, early_of, load
from t2ilab.export.reader import describe_export
from t2ilab.export.weak_model import provide, weaker
from t2ilab.pipeline import TextToImage
from t2ilab.runs.machine import device_of, prepare_process
from t2ilab.runs.ranks import check_launched


def open_model(config: Config) -> tuple[Artifact, TextToImage]:
    """The export that init_from names, with the sampler, guidance and precision of this config where it has any.

    Raises:
        ValueError: init_from is missing or does not fit.
    """
    stage, options = config["stage"], build(config["trainer"])
    if not config["init_from"]:
        raise ValueError(f"stage={stage['name']} needs a finished model: init_from=<run or export folder>")
    check_launched(1)
    trusted = tuple(stage["trusted"])
    device = device_of(options)
    check_drawing(config, trusted)
    of_adapters = {"base": stage.get("base"), "scales": stage.get("adapter_scale")}
    chosen = [name for name in ("sampler", "guidance") if config[name]]
    artifact = load(
        config["init_from"],
        weights=stage["weights"],
        device=device,
        trusted=trusted,
        chosen=chosen,
        **of_adapters,
    )
    for folder in artifact.opened.unscaled_texts:
        print(
            "note: stage.adapter_scale is of the network alone; the words or the text encoder that were trained with "
            f"it are used as they lie in {folder}",
            flush=True,
        )
    generate = drawing(artifact, sampler_node(config, artifact.manifest), config["guidance"], trusted=trusted)
    if options.precision:
        generate = generate.with_(precision=resolved(options.precision, generate.device))
    prepare_process(replace(options, precision=generate.precision))
    return artifact, generate


def check_drawing(config: Config, trusted: tuple[str, ...]) -> None:
    """Refuses a sampler or guidance of this config that the manifest of one model tells not to suit it.

    That of several is known when they are put together.

    Raises:
        ValueError: naming the option.
    """
    paths, base = config["init_from"], config["stage"].get("base")
    if not isinstance(paths, str) or not (config["sampler"] or config["guidance"]):
        return
    opened = describe_export(paths, trusted=trusted, base=base)
    nodes, manifest = opened.nodes, opened.manifest
    sampler, guidance = build(sampler_node(config, manifest)), build(config["guidance"] or nodes["guidance"])
    path = build(nodes["path"])
    sampler.check(path, build(nodes["prediction"]))
    sampler.check_steps(path, guidance)
    guidance.check(manifest.get("reads", ()))
    early = early_of(opened.folder)
    weaker(guidance, nodes, tuple(manifest["latent_shape"]), early=early, trusted=trusted)


def drawing(
    artifact: Artifact, sampler: Node | None, guidance: Node | None, *, trusted: tuple[str, ...]
) -> TextToImage:
    """How a model draws with another sampler or guidance; None for its own.

    Raises:
        ValueError: they do not suit it.
    """
    nodes = {"sampler": sampler, "guidance": guidance}
    generate = artifact.generate.with_(**{name: build(node) for name, node in nodes.items() if node})
    if guidance:
        provide(
            generate.guidance,
            artifact.nodes,
            generate.latent_shape,
            early=early_of(artifact.path),
            device=generate.device,
            trusted=trusted,
        )
    generate.check()
    return generate


def data_node(config: Config, manifest: dict[str, Any]) -> Node:
    """The data of this config, else those that the model was trained on.

    Raises:
        ValueError: there are none, as several adapters were trained on different ones.
    """
    found: Node | None = config["data"] or manifest.get("data")
    if found is None:
        raise ValueError(
            f"init_from={config['init_from']} was trained on different data: say with data= which are meant"
        )
    return found


def sampler_node(config: Config, manifest: dict[str, Any]) -> dict[str, Any]:
    """The sampler of this config, with the export's shift where its grid has none of its own; else the export's."""
    own, exported = config["sampler"], manifest["nodes"]["sampler"]
    if not own:
        return exported
    grid, shift = own.get("grid", {}), exported.get("grid", {}).get("shift")
    return own | {"grid": grid | {"shift": shift}} if "shift" in grid and grid["shift"] is None else own
