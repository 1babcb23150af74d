"""How a base's makers draw its texts: the numbers of its generation_config.json, which are the defaults of `generate`, as
they are in Transformers and vLLM. A small model needs a lower temperature than a large one, and its makers know it.

Of that file four numbers are taken and nothing else, and only where it says that texts are drawn at all (`do_sample`);
what is missing, or out of range, is ours."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from florilegium.config import SamplingSettings
from florilegium.errors import UsageError
from florilegium.model.untrusted import read_json

WHOLE, REAL = ("top_k",), ("temperature", "top_p", "repetition_penalty")


def base_sampling(folder: Path | None) -> SamplingSettings:
    """The defaults for the base in `folder`. Raises ModelError for a generation_config.json that cannot be read."""
    settings = SamplingSettings()
    if folder is None or not (folder / "generation_config.json").exists():
        return settings
    values = read_json(folder / "generation_config.json", f"the generation_config.json of {folder.name}")
    if values.get("do_sample") is not True:
        return settings
    for name in (*WHOLE, *REAL):
        number: Any = values.get(name)
        is_one = type(number) is int or (type(number) is float and name in REAL)
        if is_one and (number or name != "temperature"):  # greedy decoding is asked for, and no default
            with contextlib.suppress(UsageError):  # out of range
                settings = replace(settings, **{name: number})
    return settings
