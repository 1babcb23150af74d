"""What `florilegium doctor` reports: the versions, the device, the compiler, the disk, and what is wrong with them.

Each check is a function that gives one line, and never raises: what is broken here is the answer. Nothing is asked of the
network unless `hub` says so."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from florilegium.config.installed import installed_version
from florilegium.errors import reason_of

LIBRARIES = ("transformers", "peft", "accelerate", "datasets", "tokenizers", "safetensors", "triton")
FREE_BYTES_WANTED = 5 << 30
HUB_SECONDS = 10


@dataclass(frozen=True)
class Check:
    """One line: what was checked, what was found; `fix` says what to do where something is wrong, else it is empty."""

    name: str
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def check_environment(*, hub: bool = False) -> list[Check]:
    """All checks, in the order in which one thing needs another."""
    checks: list[Callable[[], Check]] = [
        _florilegium, _python, _torch, _gpu, _bitsandbytes, _libraries, _compiler, _kernels, _runs_disk, _cache,
    ]  # fmt: skip
    return [_guarded(check) for check in [*checks, *([_hub] if hub else [])]]


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:  # whatever a broken installation raises is what its owner wants to know
        return Check(
            check.__name__.strip("_"), f"fails ({type(error).__name__}: {reason_of(error)})", "Reinstall florilegium"
        )


def _florilegium() -> Check:
    return Check("florilegium", f"{installed_version('florilegium')} in {Path(__file__).parent.parent}")


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.release()} ({platform.machine()})"
    return Check("python", found, "" if sys.version_info >= (3, 11) else "Install Python 3.11 or newer")


def _torch() -> Check:
    import torch

    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Check("torch", f"{torch.__version__} ({built}), {torch.get_num_threads()} CPU threads")


def _gpu() -> Check:
    import torch

    if not torch.cuda.is_available():
        there = shutil.which("nvidia-smi") is not None
        return Check("gpu", "none", "Install a CUDA build of torch: there is an NVIDIA driver" if there else "")
    cards = []
    for number in range(torch.cuda.device_count()):
        of, (free, total) = torch.cuda.get_device_properties(number), torch.cuda.mem_get_info(number)
        cards.append(f"{of.name} (sm_{of.major}{of.minor}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free)")
    return Check("gpu", "; ".join(cards))


def _bitsandbytes() -> Check:
    import torch

    from florilegium.model.bitsandbytes_import import import_bitsandbytes

    bitsandbytes = import_bitsandbytes()
    linear = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    linear.to(device)(
        torch.ones(1, 64, dtype=torch.float32, device=device)
    )  # its native library is loaded when it is first used
    return Check("bitsandbytes", f"{bitsandbytes.__version__}, NF4 works on {device}")


def _libraries() -> Check:
    return Check("libraries", ", ".join(f"{name} {installed_version(name)}" for name in LIBRARIES))


def _compiler() -> Check:
    import torch

    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    needed = torch.cuda.is_available() and found is None
    fix = "Install gcc: without it Triton cannot compile, and the fast kernels are left out" if needed else ""
    return Check("compiler", found or "none", fix)


def _kernels() -> Check:
    from florilegium.model import choose_device
    from florilegium.model.fast_paths import select_kernels

    names, _ = select_kernels("auto", choose_device("auto"), 8)
    return Check("kernels", ", ".join(names) or "none: the reference implementation is used")


def _runs_disk() -> Check:
    return _disk("disk", Path.cwd())


def _cache() -> Check:
    from huggingface_hub.constants import HF_HUB_CACHE

    return _disk("hub cache", Path(HF_HUB_CACHE))


def _disk(name: str, folder: Path) -> Check:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free
    fix = "" if free >= FREE_BYTES_WANTED else "Free some space: a model takes gigabytes"
    return Check(name, f"{folder}, {free / 1e9:,.1f} GB free", fix)


def _hub() -> Check:
    from huggingface_hub import constants, get_token

    token = "with a token" if get_token() else "without a token"
    if constants.HF_HUB_OFFLINE:
        return Check("hub", f"{constants.ENDPOINT} not asked, {token}", "HF_HUB_OFFLINE is set: unset it to download")
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=HUB_SECONDS):
            return Check("hub", f"{constants.ENDPOINT} reachable, {token}")
    except OSError as error:
        proxy = " (a proxy is set)" if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy") else ""
        return Check("hub", f"{constants.ENDPOINT} not reachable: {error}{proxy}", "Check the network")
