"""Where a model's folder is: the one in this package, one on this disk, or one from the Hub (or its cache).

    "seedling"                     the small BLOOM in this package
    a folder that exists           as Transformers saves it
    "bigscience/bloom-560m"        from the Hub, at --revision

An existing folder always wins over the Hub. Only safetensors weights are downloaded, and a folder that wants to run code
of its own is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florilegium.errors import ModelError
from florilegium.model.untrusted import read_json, refuse_code
from florilegium.seedling import FOLDER as SEEDLING
from florilegium.storage.paths import check_path

HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges.txt"]


def locate(name: str, revision: str | None = None) -> Path:
    """The local folder of the model `name`, downloaded if it is a Hub id that is not cached. Raises ModelError."""
    found = _found(name)
    if found is not None:
        return found
    folder = _download(name, revision)
    refuse_code(folder, name)
    return folder


def _found(name: str) -> Path | None:
    """The folder of a model that is on this disk; None for a Hub id. Raises ModelError for what is neither."""
    if name == "seedling" and not Path(name).is_dir():
        return SEEDLING
    path = check_path(name, "--model")
    if path.is_dir():
        refuse_code(path, name)
        return path
    if path.exists():
        raise ModelError(f"{name} is a file", "Name the folder that holds config.json and the safetensors weights")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"no model folder at {name}", "Name a folder, a Hub id such as bigscience/bloom-560m, or 'seedling'"
        )
    return None


def config_folder(name: str, revision: str | None = None) -> Path:
    """A local folder that holds the config.json of the model `name` and perhaps no more: of a Hub id nothing else is
    downloaded. Raises ModelError as `locate` does."""
    return _found(name) or _from_hub(name, lambda: _config_alone(name, revision))


@dataclass(frozen=True)
class DownloadSize:
    """Bytes of a model's weights on the Hub, and how many of them are here already. `known`: asked for, not computed
    from the shapes."""

    total: int
    here: int
    known: bool


def download_size(name: str, revision: str | None, expected: int) -> DownloadSize:
    """What is left to be downloaded of the model `name`; `expected` bytes where nobody can be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    folder = _found(name)
    if folder is not None:
        size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        return DownloadSize(size or expected, size, size > 0)
    try:
        siblings = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=10).siblings or []
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return DownloadSize(expected, _cached_bytes(name), False)
    sizes = [file.size or 0 for file in siblings if file.rfilename.endswith(".safetensors")]
    return DownloadSize(sum(sizes) or expected, _cached_bytes(name), bool(sizes))


def _cached_bytes(name: str) -> int:
    """Bytes of safetensors files of a Hub id in the local cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "snapshots"
    files = {path.resolve() for path in snapshots.glob("*/*.safetensors")}
    return sum(path.stat().st_size for path in files if path.is_file())


def _config_alone(name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(name, "config.json", revision=revision)).parent


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return _from_hub(name, lambda: Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES)))


def _from_hub(name: str, fetch: Callable[[], Path]) -> Path:
    try:
        return fetch()
    except Exception as error:  # the Hub client raises many kinds; each means the same to the person at the terminal
        from huggingface_hub.constants import HF_HUB_OFFLINE
        from huggingface_hub.errors import (
            HFValidationError,
            OfflineModeIsEnabled,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        kind = type(error).__name__
        if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)):
            fix = "Check its spelling on huggingface.co; a private or gated model wants HF_TOKEN"
        elif isinstance(error, OfflineModeIsEnabled) or HF_HUB_OFFLINE:
            fix = "HF_HUB_OFFLINE is set: unset it, or name a local folder, or use --model seedling"
        else:
            fix = "Check the network, or name a local folder, or use --model seedling"
        raise ModelError(f"cannot get the model {name} from the Hub ({kind})", fix) from error


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json, refused where there is none."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json", "Name the folder that Transformers' save_pretrained made")
    return read_json(folder / "config.json", f"the config.json of {name}")
