"""`florilegium serve`: the fine-tuned model behind an HTTP API that OpenAI's clients know."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.commands.generate import add_where_it_runs, load_tuned
from florilegium.cli.screen import json_line, print_line
from florilegium.errors import UsageError
from florilegium.serve.settings import ServeSettings, is_loopback, listen
from florilegium.signals import interrupted, watch
from florilegium.storage.run_directory import adapter_folder, find_run

KEY_VARIABLE = "FLORILEGIUM_API_KEY"
NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def add(commands: Commands) -> None:
    serve = add_command(
        commands,
        "serve",
        "answer OpenAI-compatible requests with a fine-tuned model",
        "florilegium serve",
        "florilegium serve runs/NAME --port 8080",
        "florilegium serve --host 0.0.0.0 --api-key-file key.txt",
    )
    serve.add_argument("runs", nargs="*", metavar="RUN", help="a run, an adapter folder, or 'latest' (latest)")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but loopback needs a key (127.0.0.1)"
    )
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="port; 0 = a free one (8000)")
    serve.add_argument(
        "--api-key-file", metavar="FILE", help=f"file that holds the key clients must send; or set {KEY_VARIABLE}"
    )
    serve.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="Host that a proxy sends")
    serve.add_argument("--model", metavar="MODEL", help="path of the base model, if it has moved")
    serve.add_argument(
        "--max-length", type=int, default=1024, metavar="N", help="tokens of a text, prompt and all (1024)"
    )
    serve.add_argument("--slots", type=int, metavar="N", help="texts written at once (CPU: 16, GPU: 64)")
    serve.add_argument("--queue", type=int, default=256, metavar="N", help="texts that may wait; then 429 (256)")
    add_where_it_runs(serve)


def run(flags: argparse.Namespace) -> None:
    settings = _settings(flags)
    flags.run = _one_run(flags.runs)
    adapter_folder(find_run(flags.run))  # before anything is imported or loaded
    _check_installed()
    with watch() as stop:
        stop.what = "the server had not started yet"
        sock = listen(settings)
        tuned = load_tuned(flags)
        from florilegium.serve.run import serve

        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{sock.getsockname()[1]}"
        serve(tuned, find_run(flags.run), settings, sock, stop, lambda names: _say(url, names, flags.json))
        if stop.number:
            raise interrupted(stop.number, "what was under way is answered")


def _say(url: str, names: list[str], as_json: bool) -> None:
    if as_json:
        print_line(json_line({"url": url, "models": names}), flush=True)
    print_line(f"serving {', '.join(names)} at {url}/v1 (Ctrl-C stops it)", file=sys.stderr, flush=True)


def _settings(flags: argparse.Namespace) -> ServeSettings:
    for name, least, most in (
        ("port", 0, 65535),
        ("max_length", 2, 1_000_000),
        ("slots", 1, 4096),
        ("queue", 0, 100_000),
    ):
        value = getattr(flags, name)
        if value is not None and not least <= value <= most:
            raise UsageError(f"--{name.replace('_', '-')} is {value}", f"It takes a number from {least} to {most}")
    key = _key(flags.api_key_file)
    if key is None and not is_loopback(flags.host):
        raise UsageError(
            f"--host {flags.host} lets other machines in, and there is no key",
            "Type: openssl rand -hex 32 > key.txt; then add --api-key-file key.txt",
        )
    return ServeSettings(
        flags.host, flags.port, key, flags.max_length, flags.slots, flags.queue, tuple(flags.allowed_host)
    )


def _key(path: str | None) -> str | None:
    """The key of the file, or of the environment. Raises UsageError for one that is empty, long or not in one line."""
    if path is None and KEY_VARIABLE not in os.environ:
        return None
    where = path or KEY_VARIABLE
    try:
        key = (Path(path).read_text(encoding="utf-8") if path else os.environ[KEY_VARIABLE]).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"cannot read {where}: {why}", "--api-key-file takes a file with the key in it") from None
    if not 8 <= len(key) <= 512 or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"{where} holds no usable key", "A key is 8 to 512 letters and digits. Type: openssl rand -hex 32"
        )
    return key


def _one_run(runs: list[str]) -> str:
    if len(runs) > 1:
        raise UsageError("serve takes one run", "Start one server for each, with another --port")
    return runs[0] if runs else "latest"


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not installed", "Type: pip install 'florilegium[serve]'")
