"""florilegium.json, written and read again: what it says, what it leaves out, and that of the run that 556613a made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from florilegium.config import make_config
from florilegium.errors import ModelError
from florilegium.model import AdapterFacts, attach_adapter, base_facts, load_base, read_facts, save_adapter, template_of
from florilegium.model.adapter_facts import FACTS
from florilegium.model.identity import BaseFacts, same_weights

OLD = Path(__file__).parent.parent / "runs" / "run_of_556613a" / "adapter"


def test_what_is_written_is_read_again(tiny: Path, tmp_path: Path) -> None:
    base = load_base(str(tiny), bits=32, device=torch.device("cpu"))
    facts = AdapterFacts(
        template="{quote} ->: {tags}", list_columns=["tags"], base=base_facts(base), base_is_local=True, bits=32,
        openings={"Be": 3, "The": 1}, direction="both",
    )  # fmt: skip
    save_adapter(attach_adapter(base, make_config({"rank": 4, "bits": 32})), base, tmp_path / "adapter", facts, "card")
    found = read_facts(tmp_path / "adapter")
    assert found.lora and found.lora["r"] == 4 and found.files and "README.md" in found.files
    assert replace(found, lora=None, files=None) == facts and template_of(found).direction == "both"
    keys = "format template list_columns base base_is_local revision bits openings direction lora files"
    written = json.loads((tmp_path / "adapter" / FACTS).read_text())
    assert list(written) == keys.split() and found.to_json() == written and written["revision"] is None
    assert "original_digest" not in written["base"] and BaseFacts.from_json(written["base"]) == facts.base


def test_those_of_an_earlier_version_are_read() -> None:
    found, written = read_facts(OLD), json.loads((OLD / FACTS).read_text())
    assert found.to_json() == written and (found.base_is_local, found.direction, found.bits) == (None, None, 8)


def test_an_adapter_of_others_says_nothing(tmp_path: Path) -> None:
    facts = read_facts(tmp_path)
    assert facts.is_empty and facts.base == BaseFacts() and facts.base.to_json() == {}
    assert template_of(facts).text == "{quote} ->: {tags}" and not same_weights(facts.base, facts.base)


def test_what_no_field_holds_is_said(tmp_path: Path) -> None:
    shutil.copy(OLD / FACTS, tmp_path / FACTS)
    values = json.loads((tmp_path / FACTS).read_text())
    (tmp_path / FACTS).write_text(json.dumps({**values, "base_is_local": "yes"}))
    with pytest.raises(ModelError, match=r"florilegium\.json cannot be read: base_is_local is 'yes'"):
        read_facts(tmp_path)
