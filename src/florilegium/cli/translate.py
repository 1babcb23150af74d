"""Flags and settings under earlier or foreign names, put into today's before anything is parsed.

    --lr 1e-4 --load_in_4bit true --rank=8      ->  --learning-rate 1e-4 --bits 4 --lora-rank=8
    --packing                                   ->  UsageError: why there is no such flag, and what to type

A name that no table knows is left as it is: the parser refuses it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from florilegium.cli import foreign_answers
from florilegium.cli import foreign_flags as foreign
from florilegium.config import RENAMED
from florilegium.errors import UsageError

_OLD = {old.replace("_", "-"): new.replace("_", "-") for old, new in RENAMED.items()}


@dataclass(frozen=True)
class Names:
    """What the names of other programs mean for one command."""

    same: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    answers: Mapping[str, tuple[str, str]] = field(default_factory=dict)


_TRAINING = Names({**foreign.SAME_IN_TRAINING, **_OLD}, foreign.SWITCHES, foreign_answers.ANSWERS_IN_TRAINING)
_GENERATION = Names(foreign.SAME_IN_GENERATION, foreign.SWITCHES_IN_GENERATION, foreign_answers.ANSWERS_IN_GENERATION)
NAMES = {
    "train": _TRAINING,
    "resume": _TRAINING,
    "inspect": _TRAINING,
    "estimate": _TRAINING,
    "generate": _GENERATION,
    "chat": _GENERATION,
    "export": Names(foreign.SAME_IN_EXPORT, {}, foreign_answers.ANSWERS_IN_EXPORT),
    "evaluate": Names(foreign.SAME_IN_EVALUATION, foreign.SWITCHES_IN_EVALUATION),
}


def translate(arguments: Sequence[str], command: str, flags: Collection[str], switches: Collection[str]) -> list[str]:
    """`arguments` with the flags of `command`: `flags` are those that it has, `switches` those that take no value.
    Raises UsageError for a name that has an answer instead."""
    names, rest = NAMES.get(command, Names()), _run_first(arguments) if command == "push" else list(arguments)
    result: list[str] = []
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            return [*result, argument, *rest]
        name, equals, value = argument.partition("=")
        name = _whole(name, names, flags)
        if not name.startswith("--") or " " in name:
            result.append(argument)
            continue
        given = [value] if equals else rest[:1] if rest and not rest[0].startswith("--") else []
        flag, values, used = _translated(name[2:].replace("_", "-"), given, names, flags, switches)
        if not equals:
            del rest[:used]
        result += [f"{flag}={values[0]}"] if equals and values else [flag, *values] if flag else []
    return result


def _run_first(arguments: Sequence[str]) -> list[str]:
    """`push --run RUN REPO`, typed by habit, as `push RUN REPO`: argparse has no first positional that may be left out."""
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in ("--run", "-r") and (equals or i + 1 < len(arguments)):
            run, after = (value, i + 1) if equals else (arguments[i + 1], i + 2)
            return [run, *arguments[:i], *arguments[after:]]
    return list(arguments)


def _whole(name: str, names: Names, flags: Collection[str]) -> str:
    """`-o` as `--output`, where the command has that, or an answer to it."""
    long = foreign.SHORT.get(name, "")
    return long if name not in flags and (long in flags or long[2:] in names.answers) else name


def _translated(
    name: str, given: list[str], names: Names, flags: Collection[str], switches: Collection[str]
) -> tuple[str, list[str], int]:
    """The flag of ours (none for a switch that is off), its value where it takes one, and how many of `given` it used."""
    if "--" + name not in flags:
        if name in names.answers:
            raise UsageError(f"--{name}: {names.answers[name][0]}", names.answers[name][1])
        if name in names.switches and "--" + names.switches[name][0] in flags:
            return _switched(name, given, *names.switches[name])
        renamed = names.same.get(name)
        if renamed is None or not {"--" + renamed, "-" + renamed} & set(flags):
            return "--" + name, given, len(given)
        name = renamed
    flag = "--" + name if "--" + name in flags else "-" + name
    if flag in switches:
        word = given[0].lower() if given and names is _TRAINING else ""  # elsewhere it may be the prompt
        if word == "false":
            return ("--no-" + name if "--no-" + name in flags else ""), [], 1
        return flag, [], int(word == "true")
    return flag, [foreign.VALUES.get(name, {}).get(v.lower(), v) for v in given], len(given)


def _switched(name: str, given: list[str], flag: str, value: str) -> tuple[str, list[str], int]:
    word = given[0].lower() if given else ""
    if word != "false":
        return "--" + flag, [value], int(word in ("true", "unsloth"))
    if name == "load-in-8bit":  # 8 bits are what --bits is without a flag: to leave it alone would be a wrong guess
        raise UsageError("--load-in-8bit false does not say how to store the base", "Type --bits 4, 16 or 32")
    return "", [], 1


def translate_settings(values: Mapping[str, object], source: str) -> dict[str, object]:
    """The same for the keys of a `--config` file. Raises UsageError that names `source`."""
    return dict(pair for name, value in values.items() for pair in _translated_setting(str(name), value, source))


def _translated_setting(key: str, value: object, source: str) -> Iterator[tuple[str, object]]:
    name = key.replace("_", "-")
    if name in _TRAINING.answers:
        why, fix = _TRAINING.answers[name]
        raise UsageError(f"{source}: {key}: {why}", fix)
    if name not in _TRAINING.switches:
        name = _TRAINING.same.get(name, name)
        known = foreign.VALUES.get(name, {})
        yield name.replace("-", "_"), known.get(value.lower(), value) if isinstance(value, str) else value
    elif value is not False:
        flag, setting = _TRAINING.switches[name]
        yield flag.replace("-", "_"), int(setting) if setting.isdigit() else setting


def known_names(command: str, flags: Collection[str]) -> dict[str, str]:
    """Every name that `command` knows, without dashes, with what it means here: what a typing error is compared with.
    A name that has an answer means no flag, so that one near to it is no guess at another."""
    names = NAMES.get(command, Names())
    same = {name: "--" + flag for name, flag in names.same.items() if "--" + flag in flags}
    switches = {name: f"--{flag} {value}" for name, (flag, value) in names.switches.items() if "--" + flag in flags}
    own = {flag.lstrip("-"): flag for flag in flags if not flag.startswith("--no-")}
    return {**dict.fromkeys(names.answers, ""), **switches, **same, **own}
