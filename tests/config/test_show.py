"""What can be chosen, in the terminal."""

import pytest

from t2ilab.cli import help_text
from t2ilab.config.groups import all_groups, conf_folder
from t2ilab.config.show import choices, defaults, show
from tests.tiny import in_new_process


def test_the_help_fits_a_screen():
    lines = help_text().splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


def test_all_groups_are_listed_with_their_choices_and_a_star_at_the_default():
    text = show([])
    for group in all_groups():
        (line,) = [line for line in text.splitlines() if line.split()[:1] == [group]]
        assert len(line) <= 100
    assert " muon*, " in text and "*" not in text.partition("terms  ")[2].partition("timestep  ")[0]


@pytest.mark.parametrize("group", all_groups())
def test_a_group_is_shown_with_the_comment_of_each_choice(group):
    text = show([group])
    assert {line[2:].split()[0] for line in text.splitlines()[1:] if line[2] != " "} >= set(choices(group))
    assert max(map(len, text.splitlines())) <= 100
    assert ("\n* " in text) == (group in defaults())
    for file in (conf_folder() / group).glob("*.yaml"):
        assert choices(group)[file.stem], f"{file} does not begin with a comment"


def test_a_sentence_that_goes_on_in_the_next_line_is_shown_to_its_end():
    recipes = choices("recipe")
    assert recipes["base"].endswith("new words can be taught to it; with bf16 on two cores about 45 minutes")
    assert recipes["ddpm"].endswith(
        "arXiv 2006.11239, equation 14 and algorithms 1 and 2"
    )  # and no word of sizes


def test_parts_of_others_are_shown_as_they_are_chosen():
    assert show(["weighting"]).startswith("weighting@loss.weighting=NAME")
    assert show(["terms"]).startswith("terms=[NAME,...]")


def test_a_misspelt_group_gets_a_suggestion():
    with pytest.raises(ValueError, match="there is no group modle; did you mean model"):
        show(["modle"])


def test_version_groups_and_choices_are_told_by_the_command(tmp_path):
    def told(*arguments):
        done = in_new_process("-m", "t2ilab", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert told("--version").startswith("t2ilab 0.")
    assert told("show", "ema") == told("--options", "ema") == show(["ema"]) + "\n"
    assert list(tmp_path.iterdir()) == []
