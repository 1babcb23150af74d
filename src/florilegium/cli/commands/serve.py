"""`florilegium serve`: the fine-tuned model behind an HTTP API that OpenAI's clients know."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from florilegium.cli.command_parser import Commands, add_command
from florilegium.cli.extras import missing_for_serving
from florilegium.cli.loading import ModelLoading, loading_pytorch
from florilegium.cli.screen import json_line, print_line
from florilegium.cli.writing import add_int8_head, add_where_it_runs, kernels_for, say_notes
from florilegium.errors import UsageError
from florilegium.serve.settings import ServeSettings, is_loopback, listen
from florilegium.signals import interrupted, watch
from florilegium.storage.run_directory import RUNS, RunDirectory, adapter_folder, find_run

if TYPE_CHECKING:
    from florilegium.generation.tuned import Tuned
    from florilegium.model.shared_base import Bases

KEY_VARIABLE = "FLORILEGIUM_API_KEY"


def add(commands: Commands) -> None:
    serve = add_command(
        commands,
        "serve",
        "answer OpenAI-compatible requests with a fine-tuned model",
        "florilegium serve",
        "florilegium serve runs/NAME --port 8080",
        "florilegium serve --host 0.0.0.0 --api-key-file key.txt",
    )
    serve.add_argument(
        "runs", nargs="*", metavar="RUN", help="a run, an adapter folder, a folder of runs, or 'latest' (latest)"
    )
    serve.add_argument("--run", dest="more_runs", action="append", default=[], metavar="RUN", help=argparse.SUPPRESS)
    serve.add_argument("--page", action="store_true", help="serve the page too: generate, browse runs, train")
    serve.add_argument("--open", action="store_true", help="serve the page, and open it in the browser")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; any but loopback needs a key (127.0.0.1)"
    )
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="port; 0 = a free one (8000)")
    serve.add_argument(
        "--api-key-file", metavar="FILE", help=f"file that holds the key clients must send; or set {KEY_VARIABLE}"
    )
    serve.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="Host that a proxy sends")
    serve.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="allow cross-origin requests from ORIGIN"
    )
    serve.add_argument("--model", metavar="MODEL", help="path of the base model, if it has moved")
    serve.add_argument(
        "--max-length", type=int, default=1024, metavar="N", help="context length, prompt included (1024)"
    )
    serve.add_argument("--slots", type=int, metavar="N", help="texts written at once (CPU: 16, GPU: 64)")
    serve.add_argument("--queue", type=int, default=256, metavar="N", help="texts that may wait; then 429 (256)")
    serve.add_argument(
        "--max-loaded", type=int, default=4, metavar="N", help="runs in memory; the least recently used is unloaded (4)"
    )
    add_where_it_runs(serve)
    add_int8_head(serve)


def run(flags: argparse.Namespace) -> None:
    flags.page = flags.page or flags.open
    settings = _settings(flags)
    runs = _runs(flags)
    _check_installed()
    with watch() as stop:
        stop.what = "the server had not started yet"
        sock = listen(settings)
        with loading_pytorch():
            from florilegium.generation.tuned import load
            from florilegium.serve.run import serve

        where = {"model": flags.model, "bits": flags.bits, "device": flags.device, "kernels": kernels_for(flags)}

        def load_run(run: Path, bases: Bases) -> Tuned:
            with ModelLoading() as progress:
                tuned = load(run, **where, bases=bases, progress=progress)
            say_notes(tuned)
            return tuned

        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{sock.getsockname()[1]}"
        serve(runs, load_run, settings, sock, stop, lambda names: _say(url, names, flags))
        if stop.number:
            raise interrupted(stop.number, "requests in progress were answered")


def _runs(flags: argparse.Namespace) -> list[Path]:
    """The runs that are named, or the latest: with the page there may be none yet. Raises UsageError before anything is
    imported or loaded."""
    names = [*flags.runs, *flags.more_runs]
    if not names and flags.page and not list(RUNS.glob("*/adapter/adapter_config.json")):
        return []
    runs = []
    for name in names or ["latest"]:
        path = find_run(name)
        inside = sorted(one for one in path.iterdir() if RunDirectory(one).has_adapter and one.name != "adapter")
        if inside and not RunDirectory(path).is_run:
            runs += inside  # a folder of runs
        else:
            adapter_folder(path)
            runs.append(path)
    return runs


def _say(url: str, names: list[str], flags: argparse.Namespace) -> None:
    if flags.json:
        print_line(json_line({"url": url, "models": names}), flush=True)
    at = f"the page is at {url}/" if flags.page else f"at {url}/v1"
    what = f"serving {', '.join(names)}" if names else "no run yet: train one on the page"
    print_line(f"{what}{'; ' if flags.page else ' '}{at} (Ctrl-C stops it)", file=sys.stderr, flush=True)
    if flags.open:
        import webbrowser

        webbrowser.open(f"{url}/")


def _settings(flags: argparse.Namespace) -> ServeSettings:
    for name, least, most in (
        ("port", 0, 65535),
        ("max_length", 2, 1_000_000),
        ("slots", 1, 4096),
        ("queue", 0, 100_000),
        ("max_loaded", 1, 1000),
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
        flags.host, flags.port, key, flags.max_length, flags.slots, flags.queue, tuple(flags.allowed_host),
        most_loaded=flags.max_loaded, page=flags.page,
        cors=_origins(flags.cors),
    )  # fmt: skip


def _origins(given: list[str]) -> tuple[str, ...]:
    """As browsers send them: scheme, name, port. Raises UsageError for what is none."""
    for origin in given:
        if not re.fullmatch(r"https?://[a-z0-9.\-\[\]:]+", origin):
            raise UsageError(f"--cors {origin} is no origin", "Type: --cors https://quotes.example.org")
    return tuple(given)


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


def _check_installed() -> None:
    missing = missing_for_serving()
    if missing:
        raise UsageError(f"{', '.join(missing)} is not installed", "Type: pip install 'florilegium[serve]'")
