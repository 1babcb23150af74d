"""The kernels are compiled, without a GPU, for cards that people have: an RTX 3090 (8.6; an RTX 4090 has the same
limits) always, an A100, Ada, Hopper and Blackwell with the slow tests; for Turing and Volta what they are let run. An
instruction that a card lacks, or more shared memory than it has, is found here and not at somebody's first quote. The
fewest and the most tokens of each kind always, what lies between with the slow tests."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from florilegium.fast import dequantize_kernel, head_loss_kernel, unpack_kernel
from florilegium.fast.card import ROOMY
from florilegium.fast.decoding import attention_kernel as cached_attention_kernel
from florilegium.fast.decoding import block_kernel, matmul_kernel, sampling, sampling_kernel, stored_weight
from florilegium.fast.training import (
    attention_grad_kernel,
    attention_kernel,
    gelu_kernel,
    lora_grad_kernel,
    lora_kernel,
    norm_kernel,
    residual_kernel,
)

STRIDES = (
    "stride",
    "stride_t",
    "stride_h",
    "x_stride",
    "down_grad_stride",
    "grad_stride",
    "normed_stride",
    "a_row",
    "input_stride",
    "out_grad_stride",
    "out_stride",
    "a_column",
)
# Multiples of 16, as Triton finds them to be when it is called.
WHOLE = ("N", "K", "W", "D", "S", "H", "V", "T", "F", "R", "rank", *STRIDES)
SHARED = {86: 101_376, 90: 232_448}
LIMITS = {**SHARED, 70: 98_304, 75: 65_536, 80: 166_912, 89: 101_376, 100: 232_448, 120: 101_376}
SLOW = pytest.mark.slow
# 9.0 is run on a card whenever kernels change (`make gpu`)
CARDS = [86, *(pytest.param(arch, marks=SLOW) for arch in (80, 89, 90, 100, 120))]
POINTERS = {
    "*fp32": "scale table block_scales residual partial after slopes scores settings tops sums above low whole uniforms",
    "*bf16": "x bias lora_b lora_x_at keys values query gamma beta normed lora_a",
    "*i32": "slot position rows row_slot row_position argmaxes next_token length written limit done given_token given_position "
    "sample_rows place listed",
    "*u8": "seen",
    "fp32": "scaling eps width width_before lowest",
}
TYPES = {"parts": "*fp32", "arrived": "*i32"} | {
    name: kind for kind, names in POINTERS.items() for name in names.split()
}


def compiled(kernel: Any, arch: int, fixed: dict[str, Any], options: dict[str, int], **types: str) -> Any:
    names = kernel.arg_names
    types = TYPES | types
    signature = {name: "constexpr" if name in fixed else types.get(name, "i32") for name in names}
    whole = [name for name in names if name not in fixed and (signature[name].startswith("*") or name in WHOLE)]
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in whole}
    constants = {(names.index(name),): value for name, value in fixed.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    assert made.metadata.shared <= LIMITS[arch], (kernel.__name__, fixed)
    return made


def test_the_table_of_nf4_is_that_of_bitsandbytes() -> None:
    from bitsandbytes.functional import get_4bit_type

    assert torch.equal(torch.tensor(unpack_kernel.NF4), get_4bit_type("nf4", device="cpu"))


@pytest.mark.parametrize("arch", SHARED)
@pytest.mark.parametrize("form", [8, 16, 4])
@pytest.mark.parametrize(
    ("M", "rank"), [(1, 16), (64, 256), (512, 256), *(pytest.param(*pair, marks=SLOW) for pair in ((1, 256), (64, 16)))]
)
def test_decoding_matmuls(arch: int, form: int, M: int, rank: int) -> None:
    K = 4096
    tile = stored_weight.tile(M, K, 1, form, roomy=LIMITS[arch] > ROOMY)
    options = {"num_warps": tile.pop("num_warps")}
    stored, out = "*bf16" if form == 16 else "*i32", "*fp32" if form == 16 else "*bf16"
    kind = matmul_kernel.SCORES if form == 16 else matmul_kernel.QKV
    # several adapters, which take more than one
    part = min(rank, 64)
    adapter = {"R": rank, "PART": part, "TOGETHER": matmul_kernel.LORA_COLUMNS // part}
    adapter = {"R": 0, "PART": 1, "TOGETHER": 0} if form == 16 else adapter
    alone = rank == 16 and form != 16 and matmul_kernel.reads_b_early(rank, tile["BM"], roomy=LIMITS[arch] > ROOMY)
    adapter |= {"TOGETHER": 0, "ALONE": True} if alone else {"ALONE": False}
    fixed = {
        "EPILOGUE": kind,
        "BITS": form,
        "ORDER": form,
        **adapter,
        "D": 128,
        "SPLIT": 1,
        "WHOLE": True,
        "ASM": True,
        **tile,
    }
    compiled(matmul_kernel.stored_matmul_kernel, arch, fixed, options, weight=stored, out=out)


@pytest.mark.parametrize("arch", CARDS)
@pytest.mark.parametrize("form", [8, 4, pytest.param(16, marks=SLOW)])
@pytest.mark.parametrize("width", [1024, *(pytest.param(w, marks=SLOW) for w in (512, 1536, 2048, 2560, 4096))])
# the smallest tile, that of 64 rows, which comes nearest to an RTX 3090's shared memory, and the largest
@pytest.mark.parametrize("M", [16, 32, 64, 256, pytest.param(128, marks=SLOW)])
@pytest.mark.parametrize("rank", [16, 32])
def test_every_matmul_of_a_block(arch: int, form: int, width: int, M: int, rank: int) -> None:
    """With the split that each weight has: how its loads are staged, and how wide they are, depends on it."""
    products = (
        (3 * width, width, matmul_kernel.QKV),
        (width, width, 0),
        (4 * width, width, matmul_kernel.GELU),
        (width, 4 * width, 0),
    )
    for N, K, kind in products:
        split = 1 if kind else stored_weight.split_of(N, K)
        tile = stored_weight.tile(M, K, split, form, roomy=LIMITS[arch] > ROOMY)
        options = {"num_warps": tile.pop("num_warps")}
        alone = matmul_kernel.reads_b_early(rank, tile["BM"], roomy=LIMITS[arch] > ROOMY)
        adapter = {"R": rank, "PART": rank, "TOGETHER": 0, "ALONE": alone}
        fixed = {
            "EPILOGUE": kind,
            "BITS": form,
            "ORDER": form,
            **adapter,
            "D": 64,
            "SPLIT": split,
            "WHOLE": N % tile["BN"] == 0,
            "ASM": True,
            **tile,
        }
        stored, out = "*bf16" if form == 16 else "*i32", "*bf16" if kind else "*fp32"
        made = compiled(matmul_kernel.stored_matmul_kernel, arch, fixed, options, weight=stored, out=out)
        # all of x and the weight 16 bytes a thread, whatever the split; NF4's block scales are single numbers
        sizes = re.findall(r"cp\.async\.c[ag]\S* .*?, (0x[0-9a-f]+)", made.asm["ptx"])
        step = (tile["BM"] * 2 + tile["BN"] * form // 8) * tile["BK"] // (16 * 128)  # loads of a step by 4 warps
        steps, rest = divmod(sizes.count("0x10"), step)  # on Blackwell the loop is written out once more
        assert rest == 0 and steps in (tile["STAGES"], tile["STAGES"] + 1), (N, K, split, Counter(sizes))
        assert set(sizes) <= ({"0x10", "0x4"} if form == 4 else {"0x10"}), (N, K, split, Counter(sizes))


@pytest.mark.parametrize("arch", CARDS)
def test_what_lies_between_the_matmuls(arch: int) -> None:
    enter = {"HAS_UPDATE": True, "SPLIT": 4, "R": 16, "GATHER": False, "ORDER": 8}
    for width in (1024, 4096, 5120, 14336):
        shape = {"EACH": block_kernel.columns_each(width), "BLOCK": triton.next_power_of_2(width)}
        compiled(block_kernel.residual_norm_kernel, arch, enter | shape, {"num_warps": 8}, bias="*bf16")
    project = {"R": 16, "EACH": 2, "BLOCK": 4096}
    compiled(block_kernel.down_projection_kernel, arch, project, {"num_warps": 4})
    attend = {"ORDER": 8, "BLOCK_D": 128, **cached_attention_kernel.TILE}
    compiled(
        cached_attention_kernel.cached_attention_kernel,
        arch,
        attend,
        {"num_warps": attend.pop("num_warps")},
        out="*bf16",
    )
    compiled(block_kernel.embedding_kernel, arch, {"BLOCK": 4096}, {"num_warps": 8}, table="*bf16")
    common = {"PENALTY": True, "C": sampling.CHUNKS, "BLOCK": 1024}
    compiled(sampling_kernel.softmax_stats_kernel, arch, common, {"num_warps": 4})
    search = {
        "COUNT": False,
        "COUNT_BEFORE": True,
        "FIRST_BEFORE": True,
        "FRESH": False,
        "J": sampling.CANDIDATES,
        "STAGES": sampling.STAGES,
    }
    compiled(sampling_kernel.threshold_search_kernel, arch, common | search, {"num_warps": 8}, rows="i32")
    compiled(
        sampling_kernel.sample_kernel,
        arch,
        common | {"SEARCH": True, "J": sampling.CANDIDATES},
        {"num_warps": 8},
        rows="i32",
        out="*i32",
    )


@pytest.mark.parametrize("arch", CARDS)
def test_the_block_stack(arch: int) -> None:
    """Training's kernels at bloom-7b1's shape: attention with heads of 128, norms, GELU, int8 and NF4 dequantised, the
    loss."""
    heads = {"D": 128, "BLOCK_D": 128, "BLOCK": attention_kernel.BLOCK}
    floats = {
        "logsumexp": "*fp32",
        "delta": "*fp32",
        "slopes": "*fp32",
        "qs": "*fp32",
        "ks": "*fp32",
        "vs": "*fp32",
        "root": "fp32",
    }
    halves = dict.fromkeys(("q", "k", "v", "qb", "vb", "out", "grad", "dq", "dk", "dv"), "*bf16")
    attention = floats | halves | {"sqrt": "fp32", "starts": "*i32", "ends": "*i32"}
    options = dict(attention_kernel.TILE)
    heads["INNER"] = options.pop("INNER")
    for order in (16, 4):
        compiled(attention_kernel.attention_kernel, arch, heads | {"ORDER": order}, options, **attention)
    compiled(attention_grad_kernel.attention_grad_kernel, arch, heads, options, **attention)
    adapter = dict.fromkeys(
        ("a", "out", "beside", "lora_input", "down", "down_grad", "out_grad", "grad", "slope"), "*bf16"
    )
    adapter |= dict.fromkeys(("grad_a", "grad_b", "b_rescale"), "*fp32") | {"seed": "*i64", "number": "*i32"}
    dropped, plain = {"DROPOUT": True, "ORDER": 4}, {"DROPOUT": False, "ORDER": 16}
    warps = {"num_warps": 4}
    for rank in (16, 64, 256):
        # of the higher ranks the form that takes most
        others = [(4096, {"a_column": 1} | plain), (12288, {"a_row": 1} | plain)] if rank == 16 else []
        for K, given in (*others, (16384, {"a_column": 1} | dropped)):
            tile = lora_kernel.down_projection_tile(K, rank)
            compiled(lora_kernel.down_projection_kernel, arch, tile | given, warps, **adapter)
        for given in (plain, dropped) if rank == 16 else (dropped,):
            compiled(
                lora_grad_kernel.lora_grad_kernel, arch, lora_grad_kernel.lora_grad_tile(rank) | given, warps, **adapter
            )
        tile = lora_grad_kernel.lora_input_grad_tile(rank) | {"DROPOUT": True, "HAS_SLOPE": True}
        compiled(lora_grad_kernel.lora_input_grad_kernel, arch, tile, warps, **adapter)
    norm = dict.fromkeys(
        ("residual", "raw", "saved", "normed", "lora_input", "grad_out", "lora_grad", "scaled_grad"), "*bf16"
    )
    norm |= {"error": "*i8", "scale": "*fp32", "next_scale": "*fp32", "seed": "*i64", "number": "*i32"}
    for order in (16, 4):
        forward = {
            "HAS_UPDATE": True,
            "HAS_ERROR": True,
            "SAVE": True,
            "LORA_INPUT": True,
            "DROPOUT": True,
            "ORDER": order,
            "BLOCK": 4096,
        }
        compiled(norm_kernel.residual_norm_kernel, arch, forward, {"num_warps": 8}, **norm)
    compiled(
        norm_kernel.residual_norm_grad_kernel,
        arch,
        {"FIRST": False, "HAS_LORA": True, "DROPOUT": True, "BLOCK": 4096},
        {"num_warps": 8},
        **norm,
    )
    compiled(  # at a stage's first block, in place in float32
        norm_kernel.residual_norm_grad_kernel,
        arch,
        {"FIRST": False, "HAS_LORA": True, "DROPOUT": True, "BLOCK": 4096},
        {"num_warps": 8},
        **norm | {"scaled_grad": "*fp32"},
    )
    compiled(residual_kernel.residual_sum_kernel, arch, {"BLOCK": 4096}, {"num_warps": 8}, **norm | {"out": "*fp32"})
    compiled(gelu_kernel.gelu_grad_kernel, arch, {"BLOCK": 4096}, {"num_warps": 8}, raw="*bf16", grad="*bf16")
    compiled(
        dequantize_kernel.dequantize_int8_kernel,
        arch,
        {"SCALED": False, "BLOCK": 4096},
        {"num_warps": 4},
        weight="*i8",
        out="*bf16",
    )
    levels = {"absmax": "*u8", "absmax_table": "*fp32", "absmax2": "*fp32", "offset": "*fp32"}
    nf4 = {"NESTED": True, "GROUP": 64, "GROUP2": 256, "BLOCK": 4096}
    compiled(dequantize_kernel.dequantize_nf4_kernel, arch, nf4, {"num_warps": 4}, packed="*u8", out="*bf16", **levels)
    loss = {
        "logits": "*bf16",
        "hidden": "*bf16",
        "weight": "*bf16",
        "targets": "*i64",
        "losses": "*fp32",
        "rests": "*fp32",
    }
    compiled(
        head_loss_kernel.head_grad_kernel, arch, {"BLOCK_W": 4096}, {"num_warps": 4}, sums="*fp32", grad="*bf16", **loss
    )
    compiled(
        head_loss_kernel.head_loss_kernel,
        arch,
        {"GRAD": True, "BLOCK": 8192, "BLOCK_W": 4096},
        {"num_warps": 32},
        **loss,
    )


@pytest.mark.parametrize("arch", [70, 75])
def test_what_an_older_card_is_let_run(arch: int) -> None:
    """Int8 dequantised, to float16; all else computes in bfloat16, and is refused there by name."""
    whole = {"SCALED": False, "BLOCK": 4096}
    kernel = dequantize_kernel.dequantize_int8_kernel
    made = compiled(kernel, arch, whole, {"num_warps": 4}, weight="*i8", out="*fp16")
    assert ".bf16" not in made.asm["ptx"] and f"sm_{arch}" in made.asm["ptx"]


FORWARD = [
    (False, 0, 4, 16),
    (False, 0, 4, 72),
    (False, 0, 4, 0),
    (False, 1, 4, 0),
    (False, 1, 16, 0),
    (False, 1, 4, 16),
    (False, 3, 4, 0),
    (False, 3, 4, 16),
]
KINDS = [*FORWARD, (True, 0, 4, 0), (True, 2, 4, 0)]


@pytest.fixture
def cuda() -> Any:
    """CUDA's run-time compiler, which CI installs with the development extra; on other systems than Linux there is none
    to install."""
    found = pytest.importorskip("florilegium.fast.hopper.nvrtc", reason="cuda-bindings are not installed")
    assert found.unsupported_reason() == ""
    return found


@pytest.mark.parametrize(("back", "kind", "form", "rank"), KINDS)
@pytest.mark.parametrize(
    ("tokens", "cluster"),
    [
        (64, 1),
        (256, 1),
        (224, 2),
        (256, 2),
        *(pytest.param(*p, marks=SLOW) for p in ((160, 1), (96, 2), (128, 2), (192, 2))),
    ],
)
def test_int8_matmuls(back: bool, kind: int, form: int, rank: int, tokens: int, cluster: int, cuda: Any) -> None:
    """For a Hopper GPU alone. All of a thread's numbers stay in registers (but, with GELU and 224 tokens, one of a
    tile's place), and its matrix unit is given the next product before it is done with one: where the compiler cannot
    see to that, it says that products are serialized."""
    from florilegium.fast.hopper.int8_matmul import Variant

    variant = Variant(back, kind, form, rank, tokens, cluster)
    _, said = cuda.compile_source(variant.source)
    assert "warning" not in said and "serialized" not in said, said
    (spilled,) = re.findall(r"(\d+) bytes spill stores", said)
    assert int(spilled) <= 4 * (kind == 1 and tokens == 224), said
    assert variant.shared_bytes <= SHARED[90] and variant.stages >= 4


def test_what_cannot_be_compiled_is_said(cuda: Any) -> None:
    with pytest.raises(RuntimeError, match="no_such_type"):
        cuda.compile_source("no_such_type x;")
