"""Where a model's folder is: the one in this package, one on this disk, or one from the Hub (or its cache).

    "seedling"                     the small BLOOM in this package
    a folder that exists           as Transformers saves it
    "bigscience/bloom-560m"        from the Hub, at --revision

An existing folder always wins over the Hub. Only safetensors weights are downloaded, and a folder that wants to run code
of its own is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from florilegium.errors import ModelError
from florilegium.model.untrusted import read_json, refuse_code
from florilegium.seedling import FOLDER as SEEDLING
from florilegium.storage.paths import check_path

HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges.txt"]


def locate(name: str, revision: str | None = None) -> Path:
    """The local folder of the model `name`, downloaded if it is a Hub id that is not cached. Raises ModelError."""
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
    folder = _download(name, revision)
    refuse_code(folder, name)
    return folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # the Hub client raises many kinds; each means the same to the person at the terminal
        kind = type(error).__name__
        if "RepositoryNotFound" in kind or "RevisionNotFound" in kind or "HFValidation" in kind:
            fix = "Check its spelling on huggingface.co; a private or gated model wants HF_TOKEN"
        elif os.environ.get("HF_HUB_OFFLINE") or "Offline" in kind:
            fix = "HF_HUB_OFFLINE is set: unset it, or name a local folder, or use --model seedling"
        else:
            fix = "Check the network, or name a local folder, or use --model seedling"
        raise ModelError(f"cannot get the model {name} from the Hub ({kind})", fix) from error


def read_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json, refused where there is none."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json", "Name the folder that Transformers' save_pretrained made")
    return read_json(folder / "config.json", f"the config.json of {name}")
