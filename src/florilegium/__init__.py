"""florilegium: fine-tune BLOOM on your own quotes, and know what it learned.

    import florilegium

    trained = florilegium.train("quotes.jsonl", model="bigscience/bloom-560m")
    for row in trained.tuned.generate("The sea", n=3):
        print(row.quote)

The names below are loaded when they are first used, so that `import florilegium` and `florilegium --help` take no time.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# Before a library is imported that reads them: nothing is sent unasked, and no compiled kernel is fetched from the Hub.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("USE_HUB_KERNELS", "NO")

if TYPE_CHECKING:
    from florilegium.config import SamplingSettings, TrainConfig, make_config
    from florilegium.data import Quote, Template, read_rows, split_rows
    from florilegium.errors import (
        DataError,
        DivergedError,
        FlorilegiumError,
        Interrupted,
        ModelError,
        ResourceError,
        UsageError,
    )
    from florilegium.generation import Generated
    from florilegium.generation.tuned import Tuned, load
    from florilegium.model import ForwardOptions, LoadedModel, attach_adapter, hidden_states, load_base, token_losses
    from florilegium.runs.evaluate import evaluate
    from florilegium.runs.finish import Trained
    from florilegium.runs.inspect import inspect
    from florilegium.runs.resume import resume
    from florilegium.runs.train import train
    from florilegium.tokens import encode, pack

_HOMES = {
    "DataError": "errors",
    "DivergedError": "errors",
    "FlorilegiumError": "errors",
    "ForwardOptions": "model",
    "Generated": "generation",
    "Interrupted": "errors",
    "LoadedModel": "model",
    "ModelError": "errors",
    "Quote": "data",
    "ResourceError": "errors",
    "SamplingSettings": "config",
    "Template": "data",
    "TrainConfig": "config",
    "Trained": "runs.finish",
    "Tuned": "generation.tuned",
    "UsageError": "errors",
    "attach_adapter": "model",
    "encode": "tokens",
    "evaluate": "runs.evaluate",
    "hidden_states": "model",
    "inspect": "runs.inspect",
    "load": "generation.tuned",
    "load_base": "model",
    "make_config": "config",
    "pack": "tokens",
    "read_rows": "data",
    "resume": "runs.resume",
    "split_rows": "data",
    "token_losses": "model",
    "train": "runs.train",
}

__all__ = [
    "DataError",
    "DivergedError",
    "FlorilegiumError",
    "ForwardOptions",
    "Generated",
    "Interrupted",
    "LoadedModel",
    "ModelError",
    "Quote",
    "ResourceError",
    "SamplingSettings",
    "Template",
    "TrainConfig",
    "Trained",
    "Tuned",
    "UsageError",
    "attach_adapter",
    "encode",
    "evaluate",
    "hidden_states",
    "inspect",
    "load",
    "load_base",
    "make_config",
    "pack",
    "read_rows",
    "resume",
    "split_rows",
    "token_losses",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'florilegium' has no attribute {name!r}")
    return getattr(importlib.import_module(f"florilegium.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
