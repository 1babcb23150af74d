"""Which numbers of a linear's input the adapter's dropout leaves, drawn by the number that a token has in its step.

A number's draw depends on the seed, the linear (`stream`), its token's number and its column, and on nothing else: a row
drops the same wherever it is packed, in whatever micro-batch and process, and a mask can be recomputed. The kernels draw
with the same generator (`fast/training/dropout.py`): Philox 4x32 with seven rounds (Salmon et al. 2011), whose four words
are eight draws of 16 bits."""

from __future__ import annotations

from dataclasses import dataclass

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
    blocks = -(-width // DRAWS)
    keep = torch.empty(len(number_T), blocks * DRAWS, dtype=torch.bool, device=number_T.device)
    column = torch.arange(blocks, device=number_T.device)
    tokens = max(1, AT_ONCE // blocks)
    for first in range(0, len(number_T), tokens):
        here = slice(first, first + tokens)
        counter = (number_T[here, None].long() * blocks + column) & WORD
        w0, w1, w2, w3 = philox(seed + stream * STREAM, counter)
        halves = [half for word in (w0, w2, w1, w3) for half in (word & 0xFFFF, word >> 16)]  # as the kernels join them
        keep[here] = torch.stack([half >= limit for half in halves], -1).flatten(1)
    return keep[:, :width]


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
