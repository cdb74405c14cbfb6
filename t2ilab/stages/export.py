"""`stage=export`: a finished model as a new export, with other weights, another sampler or guidance of its own."""

from __future__ import annotations

from torch import Tensor

from t2ilab.build import Config
from t2ilab.export.denoiser import RAW, Artifact, check_parity, early_of, save
from t2ilab.export.manifest import as_parent
from t2ilab.files import whole_folder
from t2ilab.models.convert_adapter import save_kohya
from t2ilab.models.injection import injected, merge
from t2ilab.runs.finished_model import open_model, sampler_node
from t2ilab.runs.folder import RunDir

KEPT = (
    "steps",
    "images",
    "seed",
    "resolution",
    "data",
    "data_digest",
    "pictures",
    "learned_text",
)  # facts that are as true of the new one


def run(config: Config) -> None:
    """Writes export/ with what the options choose and, where they choose nothing, what the old one has."""
    artifact, generate = open_model(config)
    if config["stage"]["format"] == "kohya":
        return write_kohya(config, artifact)
    raw = raw_of(artifact)
    merge(generate.denoiser.backbone)  # an export is whole
    if not config["trainer"]["precision"]:  # what is best here need not be what is best elsewhere
        generate = generate.with_(precision=artifact.manifest["precision"])
    run_dir = RunDir(config["run_dir"])
    with run_dir.claimed():
        run_dir.remember(config)
        chosen = {"sampler": sampler_node(config, artifact.manifest)}
        chosen |= {"guidance": config["guidance"]} if config["guidance"] else {}
        facts = {name: artifact.manifest[name] for name in KEPT if name in artifact.manifest} | {
            "stage": config["stage"]["name"],
            "parents": [as_parent(artifact.path, artifact.manifest)],
            "weights": config["stage"]["weights"],
            "command": config["command"],
        }
        nodes, early = artifact.nodes | chosen, early_of(artifact.path)
        with whole_folder(run_dir.export) as folder:
            save(folder, generate, nodes=nodes, facts=facts, raw=raw, early=early)
            check_parity(folder, generate, ["one image", "another image"])
        print(f"export: {run_dir.relative(run_dir.export)}")


def raw_of(artifact: Artifact) -> dict[str, Tensor]:
    """The weights without averaging, of adapters together with their base."""
    from safetensors.torch import load_file

    if artifact.opened.whole:
        return load_file(artifact.path / RAW)
    return artifact.opened.merged(RAW).backbone.state_dict()


def write_kohya(config: Config, artifact: Artifact) -> None:
    """Writes the adapter alone, in the layout of kohya's tools.

    Raises:
        ValueError: the model is none, or several; or the adapter is none of LoRA's kinds.
    """
    network = artifact.denoiser.backbone
    if injected(network) is None:
        raise ValueError(
            "stage.format=kohya writes one adapter as it is: give init_from=<run of an adapter>, and no "
            "stage.adapter_scale"
        )
    run_dir = RunDir(config["run_dir"])
    with run_dir.claimed():
        run_dir.remember(config)
        path = save_kohya(network, run_dir.path / "kohya.safetensors")
        print(f"kohya: {run_dir.relative(path)}")
