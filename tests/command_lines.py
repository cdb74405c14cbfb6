"""Random command lines, as somebody in a hurry, or a fuzzer, would type them: a function of the seed."""

from __future__ import annotations

import functools
import random

from omegaconf import OmegaConf

from t2ilab.config.groups import INSIDE, all_groups, conf_folder
from t2ilab.config.names import dotted

VALUES = [
    *("7", "0", "-1", "1", "3", "1.5", "-0.5", "1e9", "1e400", "-1e-9", "inf", "-inf", "nan"),
    *("65536", "1024", "1000000", "2147483648", "9999999999999999999999", "-9223372036854775809"),
    *(
        "null",
        "true",
        "False",
        "???",
        "''",
        "' '",
        "word",
        "2024-01-01",
        "a/b",
        "'../..'",
        "/",
        "~",
        "/nowhere",
    ),
    *("[]", "[1]", "[[1]]", "[1,2]", "[a,b]", "[null]", "[1,a,2.5]", "[[],[]]", "[-1,0]", "[true,false]"),
    *("[{a:1}]", "{}", "{a:1}", "{1:2}", "{a:{b:[1]}}", "{true:1}", "{_target_:torch.nn.Identity}"),
    *("{_target_:7}", "{_target_:'..'}", "{_target_:builtins.dict}", "${seed}", "${model}", "${nowhere}"),
    *(
        "'${oc.env:NOWHERE}'",
        "${div:7,2}",
        "\\${x}",
        "'\\u00e9'",
        "$HOME",
        "'a\\nb'",
        "x" * 300,
        "[" * 60 + "]" * 60,
    ),
    *(
        "torch.nn",
        "torch.nn.Linear",
        "t2ilab.core.path.Linear",
        "t2ilab.optim.adamw.adamw",
        "os.getcwd",
        "t2ilab",
    ),
]
STAGES = ("pretrain", "pretrain", "pretrain", "autoencoder", "encoder", "sample", "evaluate", "export")
SMALL = (
    "model=dit_nano",
    "model=unet_tiny",
    "model=mmdit_tiny",
    "model=pixart_tiny",
    "model=single_tiny",
    "debug=tiny",
)


@functools.cache
def _choices(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))


@functools.cache
def _keys(group: str, choice: str) -> list[str]:
    """Dotted options of a choice, its reserved keys included."""
    plain = OmegaConf.to_container(OmegaConf.load(conf_folder() / group / f"{choice}.yaml"), resolve=False)
    plain.pop("defaults", None)
    if group in ("stage", "recipe", "debug"):
        return dotted(plain)
    place = INSIDE.get(group, f"terms.{choice}" if group == "terms" else group)
    return [f"{place}.{key}" for key in [*dotted(plain), "_target_", "_partial_"]]


def command_line(number: int, seed: int = 0) -> list[str]:
    """The overrides of one command line."""
    draw = random.Random(f"{seed} {number}")
    stage = draw.choice(STAGES)
    given = [f"stage={stage}"] if stage != "pretrain" else [draw.choice(SMALL)]
    if stage in ("sample", "evaluate", "export"):
        given += ["init_from=nowhere"]
    if stage == "sample":
        given += ["prompts=[a red circle]"]
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        given += _change(draw)
    return given


def _change(draw: random.Random) -> list[str]:
    """One more choice, option, addition or omission."""
    group = draw.choice(all_groups())
    choice, value = draw.choice(_choices(group)), draw.choice(VALUES)
    place = f"{group}@{INSIDE[group]}" if group in INSIDE else group
    chosen = f"{place}={choice}" if group != "terms" else f"terms=[{choice}]"
    keys = _keys(group, choice) or ["seed"]
    kind = draw.random()
    if kind < 0.55:
        return [*([chosen] if draw.random() < 0.5 else []), f"{draw.choice(keys)}={value}"]
    if kind < 0.65:
        return [f"{draw.choice(('seed', 'name', 'run_dir', 'init_from', 'prompts', 'terms'))}={value}"]
    if kind < 0.75:
        return [
            f"+{draw.choice(keys).rpartition('.')[0] or 'x'}.{draw.choice(('x', 'path', '1', '_args_'))}={value}"
        ]
    if kind < 0.83:
        return [f"~{draw.choice([group, *keys])}"]
    if kind < 0.92:
        return [f"{group}={value}"]
    return [f"++{draw.choice(keys)}={value}"]
