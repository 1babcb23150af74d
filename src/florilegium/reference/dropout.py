"""Which numbers of a linear's input the adapter's dropout leaves, drawn by the number that a token has in its step.

A number's draw depends on the seed, the linear (`stream`), its token's number and its column, and on nothing else: a row
drops the same wherever it is packed, in whatever micro-batch and process, and a mask can be recomputed. The kernels draw
with the same generator (`fast/training/dropout.py`): Philox 4x32 with seven rounds (Salmon et al. 2011), whose four words
are eight draws of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

ROUNDS = 7
MULTIPLIERS, KEYS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
STREAM = 7919  # a prime: keeps the streams apart whatever the seed is
DRAWS = 8  # of a counter
AT_ONCE = 1 << 16  # counters: what is made on the way stays in a processor's cache
NOISE_AT_ONCE = 1 << 18  # a recorded step launches a hundred kernels for each; some 40 MB are on the way
NOISE_STREAM = -1  # NEFTune's; those of the adapter's linears count from 0


def drop_limit(p: float) -> int:
    """The share as it is drawn: of 65,536 numbers how many are dropped. 65,536 would leave nothing to divide by."""
    return min(round(p * 65536), 65535)


@dataclass(frozen=True)
class Dropout:
    """`seed` int64 [1] on the device, the same for all linears of a step; `number_T` int32 [T] there, of the tokens in the
    step; `stream` tells linears apart; `p` is the share that is dropped."""

    seed: torch.Tensor
    number_T: torch.Tensor
    stream: int
    p: float

    @property
    def drop_limit(self) -> int:
        return drop_limit(self.p)


def dropout_keep(seed: int, stream: int, number_T: torch.Tensor, width: int, limit: int) -> torch.Tensor:
    """Whether each number of an input [T, width] is left, bool; `number_T` are its tokens' numbers, int64 or int32."""
    key, blocks = seed + stream * STREAM, -(-width // DRAWS)
    if number_T.device.type == "cpu":
        drawn = _draws_on_cpu(key, number_T.numpy(), blocks)
        return torch.from_numpy((drawn >= limit).reshape(len(number_T), -1)[:, :width])
    column = torch.arange(blocks, device=number_T.device)
    found = []
    for numbers in torch.split(number_T, max(1, AT_ONCE // blocks)):
        w0, w1, w2, w3 = philox(key, (numbers[:, None].long() * blocks + column) & WORD)
        halves = [half for word in (w0, w2, w1, w3) for half in (word & 0xFFFF, word >> 16)]  # as the kernels join them
        found.append(torch.stack([half >= limit for half in halves], -1).flatten(1))
    return torch.cat(found)[:, :width]


def _draws_on_cpu(key: int, numbers_T: np.ndarray, blocks: int) -> np.ndarray:
    """uint16 [T, blocks, 4, 2], as `philox` has them and in their order: by numpy a third of torch's time, since its unsigned
    words need no mask and two halves are a view."""
    words = np.empty((len(numbers_T), blocks, 4), np.uint32)
    column = np.arange(blocks, dtype=np.uint64)
    tokens = max(1, AT_ONCE // blocks)
    for first in range(0, len(numbers_T), tokens):
        here = slice(first, first + tokens)
        counter = (numbers_T[here, None].astype(np.uint64) * np.uint64(blocks) + column) & np.uint64(WORD)
        _philox_in_place(key, counter, words[here])
    return words.view(np.uint16)


def _philox_in_place(key: int, c0: np.ndarray, out: np.ndarray) -> None:
    """The four words of each counter `c0`, which is spent, into `out` [..., 4]: the first, third, second, and fourth."""
    low, high, half = key & WORD, key >> 32 & WORD, np.uint64(32)
    c1, c2, c3 = np.zeros_like(c0), np.zeros_like(c0), np.zeros_like(c0)
    one, two = np.empty_like(c0), np.empty_like(c0)
    for _ in range(ROUNDS):
        np.multiply(c0, np.uint64(MULTIPLIERS[0]), out=one)
        np.multiply(c2, np.uint64(MULTIPLIERS[1]), out=two)
        for product, other, word, into in ((two, c1, low, c0), (one, c3, high, c2)):
            np.right_shift(product, half, out=into)
            np.bitwise_xor(into, other, out=into)
            np.bitwise_xor(into, np.uint64(word), out=into)
            np.bitwise_and(product, np.uint64(WORD), out=other)
        low, high = low + KEYS[0] & WORD, high + KEYS[1] & WORD
    for place, words in enumerate((c0, c2, c1, c3)):
        out[..., place] = words


def uniform_noise(seed_1: torch.Tensor, number_T: torch.Tensor, width: int) -> torch.Tensor:
    """Numbers between -1 and 1, float32 [T, width], of tokens with these numbers: one of 65,536 values each. `seed_1`
    stays on its device, so that a recorded step draws by the seed that it is replayed with."""
    blocks = -(-width // DRAWS)
    column = torch.arange(blocks, device=number_T.device)
    found = []
    for numbers in torch.split(number_T, max(1, NOISE_AT_ONCE // blocks)):
        counter = (numbers[:, None].long() * blocks + column) & WORD
        words = philox(seed_1 + NOISE_STREAM * STREAM, counter)
        found += [torch.stack([half for word in words for half in (word & 0xFFFF, word >> 16)], -1).flatten(1)]
    return (torch.cat(found)[:, :width].float() + 0.5) / 32768 - 1


def philox(
    key: int | torch.Tensor, counter: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four words of 32 bits for each counter (of 32 bits), all int64."""
    low, high = key & WORD, key >> 32 & WORD
    c0, c1, c2, c3 = counter, torch.zeros_like(counter), torch.zeros_like(counter), torch.zeros_like(counter)
    for _ in range(ROUNDS):
        one, two = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        # 64 bits that wrap into the sign: a shift brings ones in from there, which are cut off
        c0, c1, c2, c3 = (two >> 32 & WORD) ^ c1 ^ low, two & WORD, (one >> 32 & WORD) ^ c3 ^ high, one & WORD
        low, high = low + KEYS[0] & WORD, high + KEYS[1] & WORD
    return c0, c1, c2, c3
