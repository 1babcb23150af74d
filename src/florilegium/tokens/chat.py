"""`--chat`: rows as a question and its answer, in the words of the tokenizer's own chat template.

    {quote} ->: {tags}    and, say, ChatML    ->    <|im_start|>user
                                                    {quote}<|im_end|>
                                                    <|im_start|>assistant
                                                    {tags}

The last column is the answer; what stands before it, with what the template writes between those columns, is the
question. The chat template is rendered once, with placeholders in place of a row's values, so what comes of it is a
template like any other: the same object renders rows, makes prompts and reads back what the model writes. Its last
token, if it is end-of-text, is left to `encode`, which ends every row so; a beginning that the tokenizer puts in front of
each text by itself is left to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from florilegium.data import Rows, Template
from florilegium.errors import DataError, UsageError, reason_of
from florilegium.tokens.chat_rendering import render_chat
from florilegium.tokens.decode import begins_by_itself

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAVE_OUT = "Choose an instruction-tuned --model, or leave --chat out"


def chat_rows(rows: Rows, tokenizer: PreTrainedTokenizerBase, name: str) -> Rows:
    """The same rows to be rendered by the chat template of the model `name`. Raises UsageError where it has none or
    there is no answer, DataError, naming the row, for one that holds what stands between question and answer."""
    template = chat_template(rows.template, tokenizer, name)
    for quote, place in zip(rows.quotes, rows.places, strict=True):
        try:
            template.render(quote)
        except DataError as error:
            raise DataError(f"{place}: {error.cause}", "Change the row, or leave --chat out") from None
    return replace(rows, template=template)


def chat_template(template: Template, tokenizer: PreTrainedTokenizerBase, name: str) -> Template:
    """`template` as a question and its answer. Raises UsageError."""
    if tokenizer.chat_template is None:
        raise UsageError(f"--chat: the tokenizer of {name} has no chat template", LEAVE_OUT)
    if len(template.columns) < 2:
        raise UsageError(
            f"--chat trains answers, and {template.text!r} has one column",
            "Name the column of answers with --tags-column, or leave --chat out",
        )
    if template.tags_first is not None:
        raise UsageError("--chat does not work with --direction both", "Train one direction: --direction quote or tags")
    before, last = (f"{{{name}}}" for name in template.columns[-2:])
    question = template.text[: template.text.index(before) + len(before)]
    answer = template.text[template.text.index(last) :]  # the literal between them gives way to the turns
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    try:
        text = render_chat(tokenizer, turns)
        found = Template.from_text(_without_ends(text, tokenizer), template.list_columns)
    except Exception as error:  # whatever somebody else's template raises
        raise UsageError(
            f"--chat: the chat template of {name} cannot render a question with its answer ({reason_of(error)})",
            LEAVE_OUT,
        ) from error
    if found.columns != template.columns:
        raise UsageError(f"--chat: the chat template of {name} changes what it renders", LEAVE_OUT)
    return replace(found, is_chat=True)


def _without_ends(text: str, tokenizer: PreTrainedTokenizerBase) -> str:
    text = text.strip()
    begin, end = tokenizer.bos_token, tokenizer.eos_token
    if begin and text.startswith(begin) and begins_by_itself(tokenizer):
        text = text[len(begin) :]
    return text.removesuffix(end) if end else text
