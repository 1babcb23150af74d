"""What `push` sends: the files of an adapter or an export under the names that they get on the Hub, and the card.

Nothing of this machine goes along: of an adapter, the files that name its base's folder are written anew with the base's
public name. An export is sent as its export.json vouches for it, or not at all; a card that was edited is sent as edited."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from florilegium.errors import ModelError, UsageError, reason_of
from florilegium.export.card_use import THIS
from florilegium.export.origin import Origin
from florilegium.model.adapter_facts import FACTS
from florilegium.model.untrusted import check_format, read_json
from florilegium.storage.atomic_folders import ChecksumMismatch, check_file, read_manifest
from florilegium.storage.paths import without_home

EXPORT = "export.json"
EXPORT_FORMAT = 1
CARD = "README.md"
ADAPTER_FILES = (
    "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


@dataclass(frozen=True)
class Parcel:
    """`files` by their names on the Hub: a path, or the bytes themselves."""

    files: dict[str, Path | bytes]
    card: str

    def sizes(self) -> dict[str, int]:
        return {name: _size(what) for name, what in self.files.items()}

    def sums(self) -> dict[str, tuple[int, str]]:
        """Size and sha256 of each file."""
        return {name: (_size(what), _sha256(what)) for name, what in self.files.items()}


def is_export(folder: Path) -> bool:
    return (folder / EXPORT).is_file()


def pack_export(folder: Path, repo: str) -> Parcel:
    """The files of an export. Raises ModelError where one is not as it was written."""
    try:
        manifest = read_manifest(folder, EXPORT)
        check_format(manifest.facts, EXPORT_FORMAT, str(folder / EXPORT))
        for name, entry in manifest.files.items():
            if name != CARD:
                check_file(folder / name, entry)
    except ChecksumMismatch as error:
        raise ModelError(f"{folder} is not as it was exported: {error}", "Export it again") from None
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder / CARD} cannot be read ({reason_of(error)})", "Fix it, or export it again") from None
    if str(manifest.facts.get("to", "")).startswith("gguf"):
        fetch = f"## Load it\n\nGet the files: `hf download {repo} --local-dir quotes && cd quotes`\n"
        card = card.replace("## Load it\n", fetch, 1)
    card = without_home(card.replace(THIS, repo))
    names = [name for name in manifest.files if name != CARD]
    return Parcel({CARD: card.encode(), **{name: folder / name for name in names}, EXPORT: folder / EXPORT}, card)


def pack_adapter(folder: Path, base: Origin, card: str) -> Parcel:
    """The files of an adapter, with its base's public name in the place of a path."""
    config = read_json(folder / "adapter_config.json", f"the adapter_config.json in {folder}")
    files: dict[str, Path | bytes] = {CARD: card.encode()}
    files["adapter_config.json"] = _json({**config, "base_model_name_or_path": base.name})
    files |= {name: folder / name for name in ADAPTER_FILES if (folder / name).is_file()}
    if "adapter_model.safetensors" not in files:
        is_pickled = (folder / "adapter_model.bin").is_file()
        fix = "Pickled adapters are not sent: save it as safetensors" if is_pickled else "Name a run, or its adapter/"
        raise UsageError(f"{folder} has no adapter_model.safetensors", fix)
    if (folder / FACTS).is_file():
        facts = read_json(folder / FACTS, f"the {FACTS} in {folder}")
        facts["base"] = {**facts.get("base", {}), "name": base.name}
        facts["files"] = {
            name: {"sha256": _sha256(what), "bytes": _size(what)} for name, what in files.items() if name != FACTS
        }
        files[FACTS] = _json(facts)
    return Parcel(files, card)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _size(what: Path | bytes) -> int:
    return len(what) if isinstance(what, bytes) else what.stat().st_size


def _sha256(what: Path | bytes) -> str:
    if isinstance(what, bytes):
        return hashlib.sha256(what).hexdigest()
    with what.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
