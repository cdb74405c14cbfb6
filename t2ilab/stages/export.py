"""`stage=export`: a finished model as a new export, with other weights, another sampler or guidance of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from t2ilab.build import Config
from t2ilab.export.denoiser import RAW, Artifact, check_parity, early_of, save
from t2ilab.export.manifest import manifest_of
from t2ilab.files import whole_folder
from t2ilab.models.convert_adapter import save_kohya
from t2ilab.models.injection import merge
from t2ilab.runs.finished_model import open_model, sampler_node
from t2ilab.runs.folder import RunDir
from t2ilab.stages.faults import is_made_by

# Facts that are as true of the new export.
KEPT = ("steps", "images", "seed", "resolution", "data", "data_digest", "pictures", "learned_text", "pairs")


def run(config: Config) -> None:
    """Writes export/ with what the options choose and, where they choose nothing, what the old one has."""
    run_dir, kohya = RunDir(config["run_dir"]), config["stage"]["format"] == "kohya"
    run_dir.check(config)
    if kohya:
        check_kohya(config)
    artifact, generate = open_model(config)
    if kohya:
        return write_kohya(config, artifact)
    raw = raw_of(artifact)
    merge(generate.denoiser.backbone)  # an export is whole
    if not config["trainer"]["precision"]:  # what is best here need not be what is best elsewhere
        generate = generate.with_(precision=artifact.manifest["precision"])
    with run_dir.claimed():
        run_dir.remember(config)
        chosen = {"sampler": sampler_node(config, artifact.manifest)}
        chosen |= {"guidance": config["guidance"]} if config["guidance"] else {}
        facts = {name: artifact.manifest[name] for name in KEPT if name in artifact.manifest} | {
            **trained_as(artifact.manifest),
            "stage": config["stage"]["name"],
            "parents": artifact.opened.parents,
            "weights": config["stage"]["weights"],
            "command": config["command"],
        }
        nodes, early = artifact.nodes | chosen, early_of(artifact.path)
        with whole_folder(run_dir.export) as folder:
            save(folder, generate, nodes=nodes, facts=facts, raw=raw, early=early)
            check_parity(folder, generate, ["one image", "another image"])
        print(f"export: {run_dir.relative(run_dir.export)}")


def trained_as(manifest: dict[str, Any]) -> dict[str, Any]:
    """What later stages ask of the training of a model, which the config of this stage does not say."""
    times = manifest.get("timestep") or manifest.get("config", {}).get("timestep")
    by = manifest.get("trained_by", manifest["stage"])
    return {"trained_by": by} | ({"timestep": times} if times else {})


def raw_of(artifact: Artifact) -> dict[str, Tensor]:
    """The weights without averaging, of adapters together with their base."""
    from safetensors.torch import load_file

    if artifact.opened.whole:
        return load_file(artifact.path / RAW)
    return artifact.opened.merged(RAW).backbone.state_dict()


def check_kohya(config: Config) -> None:
    """Refuses what is no adapter of LoRA's kinds, before its base is read; says what the file leaves out.

    Raises:
        ValueError: the model is none, or several; or the adapter is of another kind.
    """
    path, scale = config["init_from"], config["stage"]["adapter_scale"]
    path = path[0] if isinstance(path, list) and len(path) == 1 else path
    single = isinstance(path, str) and scale is None
    folder, manifest = manifest_of(path, kind=("denoiser", "adapter")) if single else (path, {})
    adapter = manifest.get("adapter")
    if not adapter:
        raise ValueError(
            "stage.format=kohya writes one adapter as it is: give init_from=<run of an adapter>, and no "
            f"stage.adapter_scale; got init_from={path} and stage.adapter_scale={scale}"
        )
    if not is_made_by(adapter, "t2ilab.models.adapters.LoRA"):
        name = adapter["_target_"].rpartition(".")[2]
        raise ValueError(
            f"stage.format=kohya writes adapters of the kinds lora, rslora, dora and pissa, this one is a {name}: "
            "peft reads the adapter_model.safetensors in its export"
        )
    if "conditioner" in manifest["nodes"]:
        print(
            f"note: kohya.safetensors holds the change of the network alone, which belongs to the words or the text "
            f"encoder that were trained with it: those are in {folder}",
            flush=True,
        )


def write_kohya(config: Config, artifact: Artifact) -> None:
    """Writes the adapter alone, in the layout of kohya's tools."""
    run_dir = RunDir(config["run_dir"])
    with run_dir.claimed():
        run_dir.remember(config)
        path = save_kohya(artifact.denoiser.backbone, run_dir.path / "kohya.safetensors")
        print(f"kohya: {run_dir.relative(path)}")
