"""What `--kernels` says of the fused blocks before a weight is read: 'auto' may stand among names."""

from __future__ import annotations

from pathlib import Path

import pytest

from florilegium.config import make_config
from florilegium.model.fused_model import fused_unsupported
from florilegium.model.skeleton import read_skeleton
from tests.tiny import save_tiny


@pytest.mark.parametrize(("kernels", "fused"), [
    ("auto", True), ("auto,int8-head", True), ("chunked-loss, auto", True), ("fused-blocks,chunked-loss", True),
    ("chunked-loss", False), ("off", False), ("int8-head", False),
])  # fmt: skip
def test_auto_among_names_brings_the_fused_blocks(tmp_path: Path, kernels: str, fused: bool) -> None:
    folder = save_tiny(tmp_path / "m", heads=2, head_dim=32)
    config = make_config({"model": str(folder), "bits": 8, "kernels": kernels})
    reason = fused_unsupported(read_skeleton(config), config)
    assert reason == ("" if fused else "--kernels leaves the fused blocks out")
