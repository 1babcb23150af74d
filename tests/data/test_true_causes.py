"""The cause is the true one and its reason whole: of what a library, the system or a full memory says while rows are read."""

from __future__ import annotations

import errno
import struct
import sys
import zipfile
from pathlib import Path

import datasets
import pytest

from florilegium.data import Template, read_rows
from florilegium.data.arrow_rows import damaged
from florilegium.data.novelty import NoveltyIndex
from florilegium.data.raw_rows import readable
from florilegium.errors import DataError, FlorilegiumError, ModelError, ResourceError

REASON = "An error happened while generating\n\nthe table: column 'quote' of shard 7 is cut off"


def hub(monkeypatch: pytest.MonkeyPatch, error: BaseException, offline: str = "") -> BaseException:
    """What is raised where `datasets` raises `error`."""

    def load_dataset(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    with pytest.raises(Exception) as caught:
        read_rows("owner/name")
    return caught.value


def test_what_datasets_says_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hub(monkeypatch, RuntimeError(REASON))
    assert isinstance(found, DataError) and "shard 7 is cut off" in found.cause


def test_a_split_that_is_not_there_is_no_want_of_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hub(monkeypatch, ValueError('Unknown split "dev". Should be one of [...]'), offline="1")
    assert isinstance(found, DataError) and "choose one of those listed" in found.fix


def test_a_package_that_datasets_wants_is_not_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = hub(monkeypatch, ImportError("To support decoding audio files, please install 'torchcodec'."))
    assert isinstance(found, DataError) and "torchcodec" in found.cause and "'datasets'" not in found.cause
    assert "package that it names" in found.fix


def test_full_disks_and_memory_are_no_fault_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(hub(monkeypatch, MemoryError()), MemoryError)  # `cli.main` tells it: exit 5
    wrapped = RuntimeError("generating failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    found = hub(monkeypatch, wrapped)
    assert isinstance(found, ResourceError) and "HF_HOME" in found.fix


@pytest.mark.parametrize(
    ("number", "kind", "fix"),
    [
        (errno.EMFILE, ResourceError, "ulimit -n"),
        (errno.EIO, DataError, "Copy it to a local disk"),
        (errno.ENAMETOOLONG, DataError, "shorter"),
        (errno.ENOMEM, OSError, ""),
    ],
)
def test_what_the_system_says(tmp_path: Path, number: int, kind: type[Exception], fix: str) -> None:
    with pytest.raises(kind) as caught, readable(tmp_path):
        raise OSError(number, "said by the system")
    assert not isinstance(caught.value, FlorilegiumError) or fix in caught.value.fix


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(DataError, match=r"File name too long\). Check the path"):
        read_rows("a" * 300 + ".csv")


def test_a_zip_packed_otherwise_is_not_damaged(tmp_path: Path) -> None:
    """Deflate64 (method 9), which Python has not."""
    path = tmp_path / "quotes.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("quotes.csv", "quote,tags\nBe kind.,kindness\n")
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        place = data.index(signature) + at
        data[place : place + 2] = struct.pack("<H", 9)
    path.write_bytes(data)
    with pytest.raises(DataError, match="packed in a way that Python does not unpack .*unzip .*quotes.zip"):
        read_rows(path)


def test_what_is_not_supported_is_not_damaged(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    found = damaged(tmp_path, "a Parquet file", pyarrow.ArrowNotImplementedError("Support for codec 'lzo' not built"))
    assert "of a form that is not read here" in found.cause and "lzo" in found.cause
    with pytest.raises(MemoryError):
        damaged(tmp_path, "a Parquet file", pyarrow.ArrowMemoryError("malloc of size 64 failed"))


def test_a_package_that_cannot_be_imported_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "quotes.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    (tmp_path / "openpyxl.py").write_text("raise ImportError('libxml2.so.2: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "openpyxl", raising=False)
    with pytest.raises(DataError, match="cannot be imported .libxml2"):
        read_rows(path)
    monkeypatch.delitem(sys.modules, "openpyxl", raising=False)


def test_a_prompt_is_no_row_that_could_be_dropped() -> None:
    with pytest.raises(DataError) as caught:
        Template.from_text("{quote} ->: {tags}").prompt({"quote": "a\0b"}, open=True)
    assert "--skip-bad-rows" not in str(caught.value) and caught.value.fix


def test_a_broken_index_says_why(tmp_path: Path) -> None:
    path = tmp_path / "training_ngrams.safetensors"
    path.write_bytes(b"\0" * 3)
    with pytest.raises(ModelError, match=r"cannot be read \(SafetensorError: .*[a-z]"):
        NoveltyIndex.load(path)


def test_a_run_given_as_data_is_told_to_be_one(tmp_path: Path) -> None:
    """Its metrics.jsonl is a file of rows by its name."""
    run = tmp_path / "my run"
    (run / "adapter").mkdir(parents=True)
    for name, text in (("config.yaml", "data: sample\n"), ("metrics.jsonl", '{"step": 1, "loss": 2.0}\n')):
        (run / name).write_text(text)
    with pytest.raises(DataError, match=f"is a run, not rows.*florilegium train --from '{run}'"):
        read_rows(run)
    (run / "config.yaml").unlink()
    (run / "quotes.jsonl").write_text('{"quote": "Be kind.", "tags": ["life"]}\n')
    (run / "metrics.jsonl").unlink()
    assert len(read_rows(run).quotes) == 1
