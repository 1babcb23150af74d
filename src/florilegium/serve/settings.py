"""How the server runs, where it listens, and who may ask it. No torch: the port is taken before anything is loaded, so that
one in use is told at once."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from florilegium.errors import UsageError


@dataclass(frozen=True)
class ServeSettings:
    """`max_length` bounds a text in tokens, prompt and all; `slots` texts are written at once (None: 16 on the CPU, 64
    on a GPU), `queue` more may wait; `most_loaded` fine-tuned models are held in memory. `allowed_hosts` are names that a
    proxy may send beside the own ones. With `page` there is a page to write, look and train on; `cors`
    are other pages' origins that may ask the API."""

    host: str = "127.0.0.1"
    port: int = 8000
    api_key: str | None = None
    max_length: int = 1024
    slots: int | None = None
    queue: int = 256
    allowed_hosts: tuple[str, ...] = ()
    max_body_bytes: int = 8 * 2**20
    body_seconds: float = 30
    drain_seconds: int = 60
    most_loaded: int = 4
    page: bool = False
    cors: tuple[str, ...] = ()
    max_upload_bytes: int = 256 * 2**20
    upload_seconds: float = 600


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a server that is bound there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def listen(settings: ServeSettings) -> socket.socket:
    """A socket bound to host and port (port 0: a free one). Raises UsageError when that cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named: else a text's pieces wait 40 ms for each other
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        sock.close()
        why = f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}"
        raise UsageError(why, "Choose another --port or --host") from None
    return sock
