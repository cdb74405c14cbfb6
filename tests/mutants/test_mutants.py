import ast
from collections import Counter
from pathlib import Path

from tests.mutants.operators import mutants
from tests.mutants.selection import ROOT, far, near

SOURCE = '''
"""a - b"""
class Mix:
    def at(self, x: tuple[int, 2]) -> int:
        alpha, sigma = x[0], -x[:1]
        with torch.no_grad():
            y = (alpha + sigma * x.clamp(min=0)).sum(1)
        if y < 0:
            raise ValueError("minus " + str(1 - y))
        return y.detach() or [1] + [f"{y - 1}"]
    @torch.no_grad()
    def still(self): ...
'''


def test_every_operator_finds_its_places_and_nothing_else():
    found = {mutant.key.removeprefix("mix.py Mix.") for mutant in mutants("mix.py", SOURCE)}
    assert found == {
        "at: x[0] -> x[1]",
        "at: x[:1] -> x[:2]",
        "at: -x[:1] -> x[:1]",
        "at: with torch.no_grad() -> no with",
        "at: alpha -> sigma",
        "at: sigma -> alpha",
        "at: alpha + sigma * x.clamp(min=0) -> alpha - sigma * x.clamp(min=0)",
        "at: sigma * x.clamp(min=0) -> sigma / x.clamp(min=0)",
        "at: min=0 -> max=0",
        "at: (alpha + sigma * x.clamp(min=0)).sum(1) -> (alpha + sigma * x.clamp(min=0)).sum(2)",
        "at: y < 0 -> y >= 0",
        "at: y.detach() -> y",
        "still: @torch.no_grad() def -> def",
    }


def test_a_mutant_is_the_module_with_one_change():
    original = ast.unparse(ast.parse(SOURCE)).splitlines()
    for mutant in mutants("mix.py", SOURCE):
        changed = ast.unparse(mutant.tree()).splitlines()
        more, less = Counter(changed) - Counter(original), Counter(original) - Counter(changed)
        assert sum(less.values()) <= 2, mutant.key  # the head of a `with` and its indented line
        assert more or less, mutant.key


def test_ids_and_keys_of_the_package_are_unique():
    for path in sorted(Path(ROOT / "t2ilab/objectives").glob("*.py")):
        found = list(mutants(path.name, path.read_text()))
        assert len({mutant.id for mutant in found}) == len({mutant.key for mutant in found}) == len(found)


def test_the_test_of_the_same_name_comes_first_and_every_test_is_asked_once():
    assert near("core/path.py")[0] == "tests/core/test_path.py"
    assert near("objectives/terms/repa.py")[0] == "tests/objectives/terms/test_repa.py"
    assert "tests/sampling/test_order.py" in near("core/prediction.py")
    asked = near("core/path.py") + far("core/path.py")
    assert len(asked) == len(set(asked))
    assert "tests/test_conf.py" in asked
