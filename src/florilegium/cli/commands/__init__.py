"""The commands, a module each: `add` describes its flags, `run` parses them further, makes one library call and prints.

They import what they need when they run, so that `florilegium --help` is instant. Their order is that of `--help`."""

from __future__ import annotations

from types import ModuleType

from florilegium.cli.commands import (
    chat,
    completion,
    doctor,
    estimate,
    evaluate,
    export,
    generate,
    inspect,
    push,
    report,
    resume,
    runs,
    serve,
    train,
)

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "resume": resume,
    "estimate": estimate,
    "generate": generate,
    "chat": chat,
    "serve": serve,
    "inspect": inspect,
    "evaluate": evaluate,
    "report": report,
    "runs": runs,
    "export": export,
    "push": push,
    "doctor": doctor,
    "completion": completion,
}
