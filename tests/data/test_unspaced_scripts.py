"""Chinese, Japanese and Thai have no spaces between words: openings, copies and cut rows are told by signs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from florilegium.data.novelty import NoveltyIndex, _hashes
from florilegium.data.words import PIECE, beginning

LONG = "人生如逆旅，我亦是行人。此中有真意，欲辨已忘言。采菊东篱下，悠然见南山。"
THAI = "ความรักคือการให้โดยไม่หวังสิ่งตอบแทนและความสุขคือการได้เห็นคนที่เรารักมีความสุข"
HINDI = "जीवन में सफलता पाने के लिए मेहनत और धैर्य दोनों की बहुत ज़रूरत होती है"


@pytest.mark.parametrize(
    ("word", "begins"),
    [
        ("人生如逆旅，我亦是行人。", "人生"),
        ("七転び八起き。", "七転"),
        ("ความรักคือการให้", "คว"),
        ("하루하루가", "하루하루가"),
        ("जीवन", "जीवन"),
        ("Life", "Life"),
        ("https://example.org/a-long-one", "ht"),
    ],
)
def test_a_text_begins_with_a_word_or_two_signs(word: str, begins: str) -> None:
    assert beginning(word) == begins


@pytest.mark.parametrize(
    ("row", "copy", "other"),
    [
        (LONG, LONG + "吧", LONG[:10] + "花" + LONG[11:14]),
        (LONG, "他说：" + LONG[3:24], "他说：" + LONG[3:10]),
        (THAI, "เพราะ" + THAI[4:40], THAI[4:14]),
        (HINDI, "हाँ " + HINDI.replace("जीवन", "काम"), "जीवन में सफलता"),
        ("One two three four five six seven eight nine.", "so two three four five six seven eight nine", "one two"),
    ],
)
def test_a_copy_shares_eight_words_or_sixteen_signs(row: str, copy: str, other: str) -> None:
    index = NoveltyIndex.from_texts([row])
    assert not index.is_novel(row) and not index.is_novel(copy)
    assert index.is_novel(other)


def test_the_index_of_an_older_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    """It knows a Chinese row as a whole, and no part of it."""
    hashes = np.unique(np.array(_hashes(LONG, by_signs=False) + _hashes("Be kind, always.", by_signs=False)))
    save_file({"hashes": hashes}, tmp_path / "old.safetensors")
    old = NoveltyIndex.load(tmp_path / "old.safetensors")
    assert not old.is_novel(LONG) and not old.is_novel("be kind always") and old.is_novel(LONG + "吧")
    new = NoveltyIndex.from_texts([LONG])
    new.save(tmp_path / "new.safetensors")
    assert not NoveltyIndex.load(tmp_path / "new.safetensors").is_novel(LONG + "吧")


@pytest.mark.parametrize("text", ["a  b c ", " one two", "人生 如逆旅, yes", "", "ab"])
def test_pieces_make_the_text_again(text: str) -> None:
    assert "".join(PIECE.findall(text)) == text
