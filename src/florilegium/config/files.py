"""The settings as a YAML file, read and written: `--config`, `--print-config`, and `config.yaml` of a run."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

from florilegium.config.settings import TrainConfig, Value
from florilegium.errors import UsageError

MAX_CONFIG_BYTES = 1 << 20


def read_config(path: Path) -> dict[str, object]:
    """The settings written in a YAML file, not yet checked. Raises UsageError that names file and line."""
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise UsageError(
                f"{path} is over {MAX_CONFIG_BYTES:,} bytes: these are no settings",
                "--print-config writes a file to start from",
            )
        values = yaml.safe_load(text.decode("utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}", "--print-config writes a file to start from"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UsageError(
            f"{place}: not YAML ({getattr(error, 'problem', None) or error})", "Write `name: value` lines"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds no settings", "Write `name: value` lines; --print-config shows them all")
    return values


def dump_config(config: TrainConfig) -> str:
    """The config as YAML that `--config` reads: groups as comments, help beside each value."""
    import yaml

    lines: list[str] = []
    group = ""
    for f in fields(TrainConfig):
        if f.metadata["group"] != group:
            group = f.metadata["group"]
            lines.append(f"{chr(10) if lines else ''}# {group}")
        value = yaml.safe_dump({f.name: getattr(config, f.name)}, allow_unicode=True, width=1000).strip()
        lines.append(f"{value}  # {f.metadata['help']}" if "\n" not in value else value)
    return "\n".join(lines) + "\n"


def as_dict(config: TrainConfig) -> dict[str, Value]:
    """The config as plain values, for JSON."""
    return asdict(config)
