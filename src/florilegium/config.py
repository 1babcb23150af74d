"""Every setting of a training run, once: its default, its type, the sentence that `--help` shows, the check that it
must pass.

`TrainConfig` is a frozen dataclass of plain values. The command line makes a flag of each field (`batch_rows` ->
`--batch-rows`), `--config run.yaml` reads the same names, `--print-config` writes them back, and
`runs/NAME/config.yaml` holds the resolved set: four views of one list, so they cannot drift. Flags win over the file,
the file wins over the defaults; an unknown name is an error that names the nearest one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from florilegium.errors import UsageError, nearest

DEFAULT_TEMPLATE = "{quote} ->: {tags}"
MAX_CONFIG_BYTES = 1 << 20
TRACKERS = ("tensorboard", "wandb", "trackio")


def setting(default: Any, help: str, *, group: str, choices: tuple[Any, ...] = (), minimum: float | None = None) -> Any:
    """A field of the config: `choices` and `minimum` (inclusive) are checked by `check`, `help` is shown by
    `--help`."""
    return field(default=default, metadata={"help": help, "group": group, "choices": choices, "minimum": minimum})


@dataclass(frozen=True)
class TrainConfig:
    data: str = setting(
        "sample", "JSONL, JSON, CSV or Parquet file, a folder of them, a Hub id, or 'sample'", group="data"
    )
    template: str = setting(DEFAULT_TEMPLATE, "the text of a row; {name} stands for a column", group="data")
    skip_bad_rows: bool = setting(False, "leave rows out that cannot be used, and say which", group="data")
    repair: bool = setting(False, "mend broken encoding (mojibake) before anything else", group="data")
    held_out: float = setting(0.1, "share of the rows kept aside to measure on", group="data", minimum=0.0)
    split_by: str = setting(
        "cluster",
        "what stays on one side: near-copies, an author, nothing",
        group="data",
        choices=("cluster", "author", "random"),
    )
    max_length: int = setting(
        1024, "tokens a row may have; the quote is cut, never tags or end-of-text", group="data", minimum=8
    )
    loss_on: str = setting("all", "which tokens are learned", group="data", choices=("all", "tags"))

    model: str = setting("seedling", "a folder, a Hub id such as bigscience/bloom-560m, or 'seedling'", group="model")
    revision: str | None = setting(None, "branch, tag or commit of the model on the Hub", group="model")
    bits: int = setting(
        8, "how the frozen base is held: 8 and 4 by bitsandbytes, 16, 32", group="model", choices=(8, 4, 16, 32)
    )
    device: str = setting("auto", "where to train", group="model", choices=("auto", "cpu", "cuda"))
    compute: str = setting(
        "auto", "precision of the arithmetic", group="model", choices=("auto", "bfloat16", "float32")
    )
    fast: str = setting("auto", "fast paths: auto, off, or names such as attention,linear", group="model")
    memory: str = setting(
        "auto",
        "lean recomputes activations, fast keeps them, auto fills the card",
        group="model",
        choices=("auto", "fast", "lean"),
    )
    memory_limit: float | None = setting(
        None, "GiB of the GPU that a run may take; default: what is free", group="model", minimum=0.0
    )

    rank: int = setting(16, "rank of the adapter", group="adapter", minimum=1)
    alpha: float = setting(32.0, "the adapter is scaled by alpha / rank", group="adapter")
    dropout: float = setting(0.05, "dropout on the adapter's input", group="adapter", minimum=0.0)
    target_modules: str = setting("auto", "'auto', 'all-linear', or names separated by commas", group="adapter")
    rslora: bool = setting(False, "scale by alpha / sqrt(rank)", group="adapter")
    dora: bool = setting(False, "weight-decomposed LoRA (needs --bits 16 or 32)", group="adapter")
    init_lora: str = setting(
        "default",
        "how A and B start",
        group="adapter",
        choices=("default", "gaussian", "orthogonal", "olora", "pissa", "corda"),
    )

    epochs: float = setting(3.0, "times over the rows", group="training", minimum=0.0)
    max_steps: int | None = setting(None, "take this many steps, whatever --epochs says", group="training", minimum=1)
    batch_rows: int = setting(16, "rows of an optimiser step", group="training", minimum=1)
    order: str = setting(
        "auto",
        "of rows: a shuffle, or one arranged so that steps fill a GPU's tiles",
        group="training",
        choices=("auto", "shuffled", "filled"),
    )
    batch_tokens: int = setting(0, "tokens held in memory at once; 0 asks the device", group="training", minimum=0)
    learning_rate: float | None = setting(
        None, "default: 2e-4, and 1e-3 below 100M parameters", group="training", minimum=0.0
    )
    schedule: str = setting("cosine", "how the rate falls", group="training", choices=("cosine", "linear", "constant"))
    warmup: float = setting(0.05, "share of the steps over which the rate rises", group="training", minimum=0.0)
    weight_decay: float = setting(0.0, "AdamW's weight decay", group="training", minimum=0.0)
    clip: float = setting(1.0, "largest norm of the gradient; 0 leaves it alone", group="training", minimum=0.0)
    optimizer: str = setting(
        "adamw",
        "8-bit and paged ones are bitsandbytes'",
        group="training",
        choices=("adamw", "adamw-8bit", "paged-adamw-8bit"),
    )
    lora_plus_ratio: float | None = setting(
        None, "LoRA+: B learns this many times faster than A", group="training", minimum=1.0
    )
    neftune_alpha: float | None = setting(
        None, "NEFTune: noise on the embeddings while training", group="training", minimum=0.0
    )
    seed: int = setting(0, "of the adapter, the order of rows, dropout and the samples", group="training", minimum=0)

    evaluate_every: int | None = setting(
        None, "steps between looks at held-out rows; default: 4 times a run", group="run", minimum=1
    )
    patience: int | None = setting(None, "stop after this many looks without a better loss", group="run", minimum=1)
    save_every: int | None = setting(None, "steps between checkpoints; default: with each look", group="run", minimum=1)
    keep_checkpoints: int = setting(2, "checkpoints kept", group="run", minimum=1)
    log_every: int = setting(1, "steps between lines of metrics.jsonl", group="run", minimum=1)
    output: str | None = setting(None, "the run's folder; default: runs/ and date and name", group="run")
    force: bool = setting(False, "use --output even if a run is there (the old one is set aside)", group="run")
    report_to: str = setting("none", "none, or of tensorboard, wandb, trackio, separated by commas", group="run")


@dataclass(frozen=True)
class SamplingSettings:
    """`temperature` 0 takes the likeliest token. `top_k` 0 and `top_p` 1 leave all tokens in."""

    max_new_tokens: int = 100
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "max_new_tokens": (1 <= self.max_new_tokens <= 100_000, "from 1 to 100000"),
            "temperature": (0 <= self.temperature <= 100, "from 0 (the likeliest token) to 100"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 (all) or more"),
            "repetition_penalty": (0 < self.repetition_penalty <= 100, "above 0 and at most 100"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (good, takes) in limits.items():
            if not good:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}", f"It takes a number {takes}")


def make_config(values: Mapping[str, Any], *, source: str = "") -> TrainConfig:
    """`values` over the defaults, checked. Raises UsageError that names `source`, the key and what it takes."""
    known = {f.name: f for f in fields(TrainConfig)}
    hints = get_type_hints(TrainConfig)
    where = f"{source}: " if source else ""
    clean: dict[str, Any] = {}
    for name, value in values.items():
        key = str(name).replace("-", "_")
        if key not in known:
            raise UsageError(
                f"{where}unknown setting {str(name)!r}", nearest(key, known) or "--print-config shows all of them"
            )
        clean[key] = _checked(where, key, value, hints[key], known[key].metadata)
    config = TrainConfig(**clean)
    _check_compute(config)
    _check_adapter(config)
    _check_trackers(config.report_to)
    return config


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _check_compute(config: TrainConfig) -> None:
    """Weights that are held as plain numbers are multiplied in the precision that they are held in. Raises
    UsageError."""
    held = {16: "bfloat16", 32: "float32"}.get(config.bits)
    if held and config.compute not in ("auto", held):
        fix = f"Leave --compute out, or use --bits {48 - config.bits}"
        raise UsageError(f"--bits {config.bits} computes in {held}, and --compute asks for {config.compute}", fix)


def _check_adapter(config: TrainConfig) -> None:
    """Refuses what cannot work on a quantised base. Raises UsageError with the reason."""
    if config.bits >= 16:
        return
    fix = f"Use --bits 16 for it, or leave it out: plain LoRA and --rslora work in {config.bits} bits"
    if config.dora:
        raise UsageError(f"--dora needs the base's weights as numbers, and in {config.bits} bits they are codes", fix)
    if config.init_lora in ("pissa", "corda", "olora"):
        raise UsageError(
            f"--init-lora {config.init_lora} takes A and B out of the base's weights, and in {config.bits} bits they are codes",
            fix,
        )


def _check_trackers(report_to: str) -> None:
    for name in (n.strip() for n in report_to.split(",")):
        if name not in ("none", "", *TRACKERS):
            raise UsageError(f"--report-to {name}", f"It takes none, or of {', '.join(TRACKERS)}")
        if name in TRACKERS and not _is_installed(name):
            raise UsageError(f"--report-to {name} needs the package {name}", f"Type: pip install {name}")


def _is_installed(name: str) -> bool:
    """As Accelerate asks, which passes over trackers that are not: a folder of that name can be imported too (wandb
    leaves one)."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return importlib.util.find_spec(name) is not None


def _checked(where: str, name: str, value: Any, hint: Any, meta: Mapping[str, Any]) -> Any:
    """`value` as the field's type, or UsageError. An int is taken for a float, nothing else is converted."""
    accepted = getattr(hint, "__args__", (hint,))
    if isinstance(value, int) and not isinstance(value, bool) and float in accepted and int not in accepted:
        value = float(value)
    if isinstance(value, str) and float in accepted and str not in accepted:
        value = _number(value)  # YAML reads 2e-4, without a point, as text
    # bool is a kind of int in Python, but `rank: true` is a mistake.
    if not isinstance(value, accepted) or (isinstance(value, bool) and bool not in accepted):
        names = " or ".join("nothing" if t is type(None) else t.__name__ for t in accepted)
        raise UsageError(f"{where}{name} is {value!r}", f"It takes {names}")
    if value is None:
        return value
    if meta["choices"] and value not in meta["choices"]:
        listed = ", ".join(str(c) for c in meta["choices"])
        raise UsageError(
            f"{where}{name} is {value!r}", f"It takes one of {listed}; {nearest(str(value), map(str, meta['choices']))}"
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or value in (float("inf"), float("-inf")):
            raise UsageError(f"{where}{name} is {value!r}", "It takes a finite number")
        if meta["minimum"] is not None and value < meta["minimum"]:
            raise UsageError(f"{where}{name} is {value!r}", f"It takes {meta['minimum']:g} or more")
    if name in ("held_out", "dropout", "warmup") and value >= 1:
        raise UsageError(f"{where}{name} is {value!r}", "It is a share: 0 or more and less than 1")
    return value


def read_config(path: Path) -> dict[str, Any]:
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


def as_dict(config: TrainConfig) -> dict[str, Any]:
    """The config as plain values, for JSON."""
    return asdict(config)
