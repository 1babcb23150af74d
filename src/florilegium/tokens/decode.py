"""From token ids back to text.

Special tokens are no text, and are left out. Those of a tokenizer with a chat template are more: they stand between a
question and its answer, and a text that was rendered by that template cannot be read without them. So where one stands
inside a text they stay, all but what the tokenizer puts in front by itself and what fills or stands for the unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def begins_by_itself(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts a beginning-of-text token in front of each text."""
    found: Any = tokenizer("a")["input_ids"]
    return bool(found) and found[0] == tokenizer.bos_token_id


def text_of(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """The text of the tokens, which may begin or end in the middle of a row."""
    ids, marked = list(token_ids), False
    if tokenizer.chat_template is not None:
        special = set(tokenizer.all_special_ids)
        never = {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id} - {tokenizer.eos_token_id}
        marked = any(token in special and token not in never for token in ids)
        if marked and not begins_by_itself(tokenizer):
            never -= {tokenizer.bos_token_id}  # then it is there because the chat template wrote it
        ids = [token for token in ids if token not in never] if marked else ids
    return str(tokenizer.decode(ids, skip_special_tokens=not marked, clean_up_tokenization_spaces=False))
