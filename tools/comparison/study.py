"""Study files: which configurations are compared, over which seeds, and how each run is started."""

import argparse
import re
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.comparison.claims import Claim, read_claims
from tools.comparison.commands import COMMANDS, Command
from util.cli import with_options
from util.errors import UserError
from util.files import read_text
from util.schema import InvalidValue, describe, integer, list_of, number, text

# Options that differ from run to run of a study, or that would make it something else.
DECIDED = ("seed", "output_dir", "resume", "eval", "start_epoch", "world_size", "dist_url")
REQUIRED = ("title", "command", "configurations", "seeds", "baseline")
OPTIONAL = ("options", "metric", "thresholds", "image_sizes", "claims")
NAME = re.compile(r"[A-Za-z0-9][\w.+=-]{0,79}", re.ASCII)
# Numbers of a log of which a smaller one is better.
LOWER_IS_BETTER = re.compile(r"loss|error", re.ASCII)
CHECKS = {
    "title": text(200),
    "command": text(100),
    "baseline": text(80),
    "seeds": list_of(integer(-(2**62), 2**62), 1, 1000),
    "metric": text(200),
    "thresholds": list_of(number(), 1, 20),
    "image_sizes": list_of(integer(1, 10_000), 1, 20),
}


@dataclass(frozen=True)
class Study:
    """What a study file says; options are words, as a shell splits them.

    Attributes:
        path: of the file.
        content: of the file, as it is.
        metric: as named by `training.log.flat`; "" for the task's first one that the logs have.
    """

    path: Path
    content: dict[str, Any]
    title: str
    command: Command
    options: list[str]
    configurations: dict[str, list[str]]
    seeds: list[int]
    baseline: str
    metric: str
    thresholds: list[float]
    image_sizes: list[int]
    claims: list[Claim]

    def place(self, configuration: str) -> str:
        """Return what messages call a configuration."""
        return f"{self.path}: configurations.{configuration}"

    def run_options(self, configuration: str, seed: int) -> list[str]:
        """Return the options of a run but its folder and what to resume."""
        return [*self.options, *self.configurations[configuration], "--seed", str(seed)]

    def expected_args(self, configuration: str, seed: int) -> argparse.Namespace:
        """Return the options of a run, parsed; `given` names those on its command line."""
        return self.command.parse(self.run_options(configuration, seed), self.place(configuration))

    def check_files(self, root: Path) -> None:
        """Check what each configuration needs on disk.

        Args:
            root: of the study's runs.

        Raises:
            UserError: the command would refuse to start.
        """
        for name in self.configurations:
            args = self.expected_args(name, self.seeds[0])
            args = with_options(args, output_dir=str(root / name), resume="auto")
            self.command.check(args, self.place(name))


def higher_is_better(metric: str) -> bool:
    """Say which way a number of a log is better: losses and errors are better when low."""
    return LOWER_IS_BETTER.search(metric) is None


def read_study(path: Path) -> Study:
    """Read and check a study file, and the options in it by the command's own parser.

    Raises:
        UserError: the file cannot be read or is wrong; the message names the key.
    """
    content = _read_toml(path)

    def refuse(key: str, what: str) -> UserError:
        return UserError(f"{path}: {key} {what}")

    known = (*REQUIRED, *OPTIONAL)
    for key in content:
        if key not in known:
            raise refuse(_shown(key), f"is no key of a study file; these are: {', '.join(known)}")
    for key in REQUIRED:
        if key not in content:
            raise refuse(key, "is missing")
    for key, check in CHECKS.items():
        try:
            if key in content:
                check(content[key], key)
        except InvalidValue as error:
            raise UserError(f"{path}: {error}") from error
    command = COMMANDS.get(content["command"])
    if command is None:
        raise refuse("command", f"is {describe(content['command'])}, not {' or '.join(COMMANDS)}")
    for key in ("seeds", "thresholds", "image_sizes"):
        twice = [value for value in content.get(key, ()) if content[key].count(value) > 1]
        if twice:
            raise refuse(key, f"has {twice[0]} more than once")
    if content.get("metric") == "":
        raise refuse("metric", "is empty; leave it out for the task's own")
    table = content["configurations"]
    if not isinstance(table, dict) or not table:
        raise refuse("configurations", "is not a table of names and their options")
    for name in table:
        if not NAME.fullmatch(name):
            raise refuse(
                f"configurations.{_shown(name)}",
                "is a folder's name, too: letters, digits and . _ + = - alone, at most 80",
            )
    if content["baseline"] not in table:
        raise refuse("baseline", f"is {describe(content['baseline'])}, none of configurations: "
                     f"{', '.join(table)}")  # fmt: skip
    try:
        claims = read_claims(content.get("claims", []), table, content.get("image_sizes", []))
    except InvalidValue as error:
        raise UserError(f"{path}: {error}") from error
    study = Study(
        path=path,
        content=content,
        title=content["title"],
        command=command,
        options=_words(content.get("options", ""), "options", refuse),
        configurations={
            name: _words(options, f"configurations.{name}", refuse)
            for name, options in table.items()
        },
        seeds=content["seeds"],
        baseline=content["baseline"],
        metric=content.get("metric", ""),
        thresholds=content.get("thresholds", []),
        image_sizes=content.get("image_sizes", []),
        claims=claims,
    )
    _check_options(study)
    return study


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such study file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a study file, it is not a text in UTF-8") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error


def _shown(key: str) -> str:
    return key if NAME.fullmatch(key) else describe(key)


def _words(value: Any, key: str, refuse: Callable[[str, str], UserError]) -> list[str]:
    """Return options that are a string, split as a shell does, or a list of strings."""
    if isinstance(value, str):
        try:
            return shlex.split(value)
        except ValueError as error:
            raise refuse(key, f"cannot be split as a shell does ({error})") from error
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return value
    raise refuse(key, f"is {describe(value)}, not a string or a list of strings")


def _check_options(study: Study) -> None:
    """Raise a UserError for options that the command refuses or that the study decides itself."""
    seen: dict[str, str] = {}
    cases = {"options": [], **{f"configurations.{n}": w for n, w in study.configurations.items()}}
    for key, words in cases.items():
        place = f"{study.path}: {key}"
        args = study.command.parse([*study.options, *words], place)
        for name in DECIDED:
            if name in args.given:
                raise UserError(f"{place}: --{name} is not for study files: compare.py decides it")
        if key == "options":
            continue
        values = repr(sorted((k, repr(v)) for k, v in vars(args).items() if k != "given"))
        same = seen.setdefault(values, key)
        if same != key:
            raise UserError(f"{place}: means the same options as {same}")
    for size in study.image_sizes:  # which the command may limit, too
        words = [study.command.size_option, str(size)]
        study.command.parse([*study.options, *words], f"{study.path}: image_sizes")
