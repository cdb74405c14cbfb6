"""The wheel holds everything: config, assets and code, and works without the checkout."""

import email
import re
import subprocess
import sys
import zipfile

import pytest

from t2ilab.config import composition
from tests.tiny import ROOT, in_new_process

pytestmark = pytest.mark.slow

COMPOSE = """
import json, sys
from pathlib import Path
import t2ilab
from t2ilab.config.composition import checked, conf_folder
config = checked(sys.argv[1:])
print(json.dumps([str(Path(t2ilab.__file__).parent), str(conf_folder()), config["model"]["_target_"]]))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel of this checkout, unpacked as an installer would do it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    built = subprocess.run(
        [*command, "--disable-pip-version-check", "-w", str(folder), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("t2ilab-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def relative_files(folder, pattern):
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern) if path.is_file()}


def test_the_wheel_holds_the_whole_config_and_nothing_but_the_package(unpacked):
    assert relative_files(unpacked / "t2ilab/conf", "*.yaml") == relative_files(
        composition.conf_folder(), "*.yaml"
    )
    assert {path.name.partition("-")[0] for path in unpacked.iterdir()} == {"t2ilab"}
    modules = relative_files(ROOT / "t2ilab", "*.py")
    assert modules <= relative_files(unpacked / "t2ilab", "*.py")


def test_the_wheel_holds_the_built_in_networks(unpacked):
    tracked = subprocess.run(
        ["git", "ls-files", "t2ilab/assets"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = tracked.stdout.split()
    if tracked.returncode or not names:
        names = [f"t2ilab/assets/{name}" for name in relative_files(ROOT / "t2ilab/assets", "*")]
    assert names
    for name in names:
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_the_unpacked_wheel_composes_its_own_config_from_anywhere(unpacked, tmp_path):
    import json

    done = in_new_process("-c", COMPOSE, "model=dit_s", cwd=tmp_path, root=unpacked)
    assert done.returncode == 0, done.stderr
    package, conf, target = json.loads(done.stdout)
    assert package == str(unpacked / "t2ilab")
    assert conf == str(unpacked / "t2ilab/conf")
    assert target == "t2ilab.models.dit.DiT"


def test_the_command_of_the_wheel_answers_from_anywhere(unpacked, tmp_path):
    done = in_new_process("-m", "t2ilab", "modle=dit_xl", cwd=tmp_path, root=unpacked)
    assert done.returncode == 2
    assert done.stderr == "error: unknown option modle; did you mean model?\n"


def test_a_run_with_the_wheel_finishes(unpacked, tmp_path):
    arguments = ["-m", "t2ilab", "debug=tiny", "run_dir=here", "trainer.accelerator=cpu"]
    done = in_new_process(*arguments, cwd=tmp_path, root=unpacked)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here/report.html").is_file()


IMPORT_ALL = """
import importlib, pkgutil, sys

for name in sys.argv[1].split():
    sys.modules[name] = None  # importing it fails, and who looks for it finds nothing
import t2ilab

for module in pkgutil.walk_packages(t2ilab.__path__, "t2ilab."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(t2ilab.__file__)
"""
DEVELOPMENT = "hatchling hypothesis importlinter mypy prodigyopt pytest ruff skimage sklearn schedulefree"


def test_every_module_of_the_wheel_is_imported_without_development_tools(unpacked, tmp_path):
    done = in_new_process("-c", IMPORT_ALL, DEVELOPMENT, cwd=tmp_path, root=unpacked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(unpacked / "t2ilab/__init__.py")


def test_the_wheel_says_its_licence_its_types_and_no_more_than_it_needs(unpacked):
    (facts,) = unpacked.glob("t2ilab-*.dist-info")
    metadata = email.message_from_string((facts / "METADATA").read_text())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert (facts / "licenses/LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (unpacked / "t2ilab/py.typed").is_file()
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    names = {re.split(r"[<>=!~ ;\[]", line)[0] for line in needed}
    assert {"torch", "lightning", "hydra-core"} <= names
    assert not names & {
        "pytest",
        "ruff",
        "mypy",
        "hypothesis",
        "scikit-learn",
        "scikit-image",
        "torchmetrics",
    }
