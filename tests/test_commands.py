"""Every command of README, CONTRIBUTING and the pages exists as it is typed: targets, flags, modules, extras."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser
from helpers import ROOT
from torch.distributed.run import get_args_parser

from ddpm_nb import _cli
from tools import address

pytestmark = pytest.mark.fast
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks/README.md",
    *sorted((ROOT / "book").glob("*.md")),
    *sorted((ROOT / "ddpm_nb").glob("*.py")),
]


class Wrong(Exception):
    """What does not exist."""


def commands(text: str) -> Iterator[str]:
    """Commands in blocks and in `code`; in a module also those of indented examples."""
    text = re.sub(r"^# ?", "", text, flags=re.M)  # prose of a chapter is comments there
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
    shell = [block for language, block in blocks if language in {"", "bash", "sh"}]
    lines = [line for b in shell for line in b.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    lines += re.findall(r"^ {2}(\S.*)$", text, re.M)
    lines += re.findall(r"pip install [^`\"'\n]*(?:\"[^\"]*\")?", text)
    for line in lines:
        line = re.sub(r"\s+# .*|^[%!]", "", line).strip()
        if line.split(" ")[0] in RULES:
            yield line


def parsed(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    def fail(message: str) -> None:
        raise Wrong(message)

    parser.error = fail  # type: ignore[method-assign,assignment]
    return parser.parse_args(words)


def ours(words: list[str]) -> None:
    """Parse a whole `ddpm-nb` command. Of one that is only mentioned, look the words up."""
    parser = _cli.parser()
    choices = next(
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    if words and words[0] not in choices and words[0] != "--version":
        raise Wrong(f"no command {words[0]}")
    flags = [word for word in words if word.startswith("--")]
    for flag in flags:
        known = {*parser._option_string_actions}
        known |= (
            {*choices[words[0]]._option_string_actions}
            if words[0] in choices
            else {*()}
        )
        if flag.partition("=")[0] not in known:
            raise Wrong(f"no flag {flag}")
    if {"--help", "--version"} & {*flags} or not {"--out", "--network"} & {*flags}:
        return
    for command in choices.values():
        command.error = lambda message: (_ for _ in ()).throw(Wrong(message))
    parsed(parser, words)


def make(words: list[str]) -> None:
    for word in words:
        name, is_variable, _ = word.partition("=")
        if is_variable and f"$({name})" not in MAKEFILE:
            raise Wrong(f"no variable {name}")
        if not is_variable and not re.search(rf"^{word}:", MAKEFILE, re.M):
            raise Wrong(f"no target {word}")


def launched(words: list[str]) -> None:
    """`accelerate launch` and what it launches. `accelerate config` asks."""
    if words == ["config"] or words == ["launch"]:
        return
    given = parsed(launch_command_parser(), words[1:])
    if given.cpu:
        raise Wrong("accelerate launch --cpu starts one process, whatever the number")
    if not given.module or given.training_script != "ddpm_nb":
        raise Wrong("accelerate launch: something else than -m ddpm_nb")
    ours(given.training_script_args)


def run_by_torch(words: list[str]) -> None:
    given = parsed(get_args_parser(), words)
    if not given.module or given.training_script != "ddpm_nb":
        raise Wrong("torchrun: something else than -m ddpm_nb")
    ours(given.training_script_args)


def python(words: list[str]) -> None:
    if words[:2] == ["-m", "ddpm_nb"]:
        ours(words[2:])
    elif words[:1] == ["-m"] and words[1].split(".")[0] in ("tools", "benchmarks"):
        path = ROOT / words[1].replace(".", "/")
        if not path.is_dir() and not path.with_suffix(".py").exists():
            raise Wrong(f"no module {words[1]}")


def pip(words: list[str]) -> None:
    """The package comes from a clone or from its address: it is in no index."""
    for word in words[1:]:
        for part in re.findall(r"^(?:\.|ddpm.nb)\[(.*?)\]", word):
            for extra in part.split(","):
                if extra not in PROJECT["optional-dependencies"]:
                    raise Wrong(f"no extra {extra}")
        if re.match(r"ddpm.nb", word) and address.current(ROOT) not in word:
            raise Wrong("the package is in no index: pip install .")


RULES: dict[str, Callable[[list[str]], None]] = {
    "ddpm-nb": ours,
    "make": make,
    "accelerate": launched,
    "torchrun": run_by_torch,
    "python": python,
    "pip": pip,
}


def wrong(text: str) -> list[str]:
    found = []
    for command in commands(text):
        name, *words = shlex.split(command)
        try:
            RULES[name](words)
        except Wrong as reason:
            found.append(f"{command}: {reason}")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    assert wrong(page.read_text(encoding="utf-8")) == []


def test_commands_are_found() -> None:
    """An empty search would agree with everything."""
    found = [c for page in PAGES for c in commands(page.read_text(encoding="utf-8"))]
    for start, least in {
        "make": 20,
        "ddpm-nb train": 5,
        "pip install": 10,
        "accelerate": 4,
    }.items():
        assert sum(c.startswith(start) for c in found) >= least, start
    assert any("--out cifar10-small-bits.json" in c for c in found)  # a continued line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("`ddpm-nb xtrain`", "no command xtrain"),
        ("`ddpm-nb train --sise 3`", "no flag --sise"),
        ("```\nddpm-nb train --data \\\n  digits --out x --T\n```", "expected one argument"),
        ("# ```bash\n# ddpm-nb train --out x\n# ```", "--data"),
        ("`ddpm-nb sample --network x --out y --method dpm`", "invalid choice"),
        ("  ddpm-nb train --data x --out y --clip all\n", "invalid choice"),
        ("`make xbook`", "no target xbook"),
        ("`make execute CHAPTER=x`", "no variable CHAPTER"),
        ("`accelerate launch -m ddpm_nb xtrain`", "no command"),
        ("`accelerate launch --gpus 2 -m ddpm_nb train`", "--gpus"),
        ("`accelerate launch --cpu --num_processes 2 -m ddpm_nb train`", "starts one"),
        ("`torchrun --nproc_per_node 2 -m ddpm_nb train --sise 3`", "no flag"),
        ("`torchrun --processes 2 -m ddpm_nb train`", "--processes"),
        ("`python -m tools.mutant`", "no module"),
        ('`pip install ".[xtrain]"`', "no extra xtrain"),
        ('missing: pip install "ddpm_nb[hub]"', "no index"),
    ],
)  # fmt: skip
def test_a_wrong_command_is_found(text: str, reason: str) -> None:
    found = wrong(text)
    assert len(found) >= 1
    assert all(reason in line for line in found)


def test_what_needs_the_address_says_so_until_there_is_one() -> None:
    """The placeholder's owner has an underscore, which no owner on GitHub can have."""
    placeholder = "_" in address.current(ROOT).split("/")[0]
    for name in ("README.md", "CONTRIBUTING.md", "book/run.md"):
        said = "placeholder" in (ROOT / name).read_text()
        assert said == placeholder, name
