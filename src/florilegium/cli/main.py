"""The command line: parse, run one command (`commands/`), turn an expected failure into one line and an exit code
(`errors.py`)."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
from collections.abc import Sequence

from florilegium.cli.commands import COMMANDS
from florilegium.cli.notify import notifying
from florilegium.cli.parser import build_parser
from florilegium.cli.screen import lead_stdout_nowhere, never_fail_to_print, open_what_is_closed, print_line, printable
from florilegium.config.processes import is_first_process
from florilegium.errors import FlorilegiumError, ModelError, ResourceError, one_line, reason_of, redact
from florilegium.signals import watch
from florilegium.storage.library_errors import is_panic, package_of, ran_out_of_memory, wanted_memory
from florilegium.storage.native_stderr import own_stderr
from florilegium.storage.platform import largest_address_space

NO_MEMORY = "Close other programs, raise a limit (ulimit -v, ulimit -u), or ask for less: --bits 4, --batch-size 1, a smaller --model"
GAVE_UP = {
    "transformers": "Look at the model's tokenizer.json, or --debug",
    "huggingface_hub": "Try again with HF_HUB_DISABLE_XET=1, or --debug",
}
ALIASES = {"ui": ["serve", "--open"]}  # commands that are another one with a flag


def command_line() -> int:
    """`main` for a process of its own, whose modules stay until it ends: a million objects, which the interpreter would look
    through for garbage as it ends, for more than a second."""
    try:
        return main()
    finally:
        gc.freeze()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # else the tokenizers library warns about forks
    open_what_is_closed()
    own_stderr()
    never_fail_to_print()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print_line("florilegium: stopped by SIGINT", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `florilegium generate | head`
        lead_stdout_nowhere()
        return 0
    except BaseException as error:
        error = _in_our_words(error)
        if not isinstance(error, Exception):
            raise
        is_rank_0s = given[:1] in (["train"], ["resume"], ["evaluate"]) and not is_first_process()
        if isinstance(error, FlorilegiumError) and (is_rank_0s if error.is_told is None else error.is_told):
            return error.exit_code  # another process of the run says it
        return _tell(error, "--debug" in given)
    return 0


def _run(arguments: Sequence[str]) -> None:
    parser = build_parser()
    flags = parser.parse_known([*ALIASES.get(arguments[0], arguments[:1]), *arguments[1:]] if arguments else [])
    if flags.version:
        from florilegium.config.installed import installed_version

        print_line(installed_version("florilegium"))
    elif flags.command is None:
        parser.print_help()
    else:
        flags.arguments = [given for given in arguments if given != "--notify"]  # of processes that this one starts
        stops = watch() if flags.command in ("train", "resume") else contextlib.nullcontext()
        with notifying(getattr(flags, "notify", False) and is_first_process(), flags.command), stops:
            COMMANDS[flags.command].run(flags)


def _in_our_words(error: BaseException) -> BaseException:
    """What a library raised and nobody expected: where memory ran out, or where one written in Rust gave up. Another
    error as it is."""
    told: FlorilegiumError | None = None
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT) and not error.filename:
        lead_stdout_nowhere()
        told = ResourceError("the disk is full: the output is incomplete", "Free space there and run again")
    elif is_panic(error):
        package = package_of(error)
        library = f"the library {package}" if package else "a library"
        cause = f"{library} crashed ({one_line(reason_of(error))})"
        told = ModelError(cause, GAVE_UP.get(package, "See where with --debug"))
    elif not isinstance(error, FlorilegiumError) and (ran_out_of_memory(error) or _is_out_of_addresses(error)):
        wanted = wanted_memory(error)
        told = ResourceError(f"memory ran out ({wanted} more were wanted)" if wanted else "memory ran out", NO_MEMORY)
    if told:
        told.__cause__ = error  # for --debug
    return told or error


def _is_out_of_addresses(error: BaseException) -> bool:
    """Whether a limit of addresses is the likely cause: a library that was refused memory, and did not look, fails anyhow."""
    return isinstance(error, (SystemError, ImportError)) and largest_address_space() is not None


def _tell(error: Exception, debug: bool) -> int:
    """One line for an expected failure, the traceback for our own mistakes and with --debug, no secret in either. The
    exit code."""
    if isinstance(error, FlorilegiumError) and not debug:
        words = f"florilegium: {error}\n"
    else:
        import traceback

        words = printable(redact("".join(traceback.format_exception(error))))
    with contextlib.suppress(OSError):  # the exit code must stand even where nothing can be written
        sys.stderr.write(words)
        sys.stderr.flush()
    return error.exit_code if isinstance(error, FlorilegiumError) else 1
