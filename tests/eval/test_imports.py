import subprocess
import sys


def test_evaluation_imports_nothing_heavy():
    heavy = (
        "scipy",
        "matplotlib",
        "jinja2",
        "rich",
        "PIL",
        "lightning",
        "diffusers",
        "transformers",
        "open_clip",
    )
    modules = (
        "alignment compare curves distribution evaluator gallery grid heldout nfe page plan report result svg"
    )
    code = f"import sys\nfor m in {modules.split()}: __import__('t2ilab.eval.' + m)\nprint(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "t2ilab.eval.report" in found
    assert [name for name in heavy if name in found] == []
