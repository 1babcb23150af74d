"""Load the frozen base: a causal language model and its tokenizer, quantised by bitsandbytes, checked before a byte is
trusted.

Only safetensors weights are read and no code from a model's folder is run. The embedding keeps its 16 bits: turning it
to float32, as PEFT's prepare_model_for_kbit_training does, makes bloom-560m in int8 larger than it is in fp16 (its
250,880-row embedding is 46% of it)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from florilegium.config import SamplingSettings
from florilegium.errors import ModelError
from florilegium.model import fast_paths
from florilegium.model.base_changes import Replaced
from florilegium.model.base_sampling import base_sampling
from florilegium.model.bitsandbytes_import import import_bitsandbytes
from florilegium.model.config_numbers import check_sizes
from florilegium.model.families import Family, family_of, packs
from florilegium.model.hub import locate, read_config
from florilegium.model.identity import original_digest, tokenizer_digest, weights_digest
from florilegium.model.kernel_protocols import HostBlocks
from florilegium.model.load_errors import model_errors, quietly
from florilegium.model.model_config import stored_bits
from florilegium.model.stage import Stage
from florilegium.model.tokenizer_loader import check_vocabulary, load_tokenizer
from florilegium.model.transformers_loader import load_model
from florilegium.model.weight_files import LoadProgress, find_weights
from florilegium.storage.native_stderr import native_stderr_away

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass
class Base:
    """A frozen model ready to take an adapter. `compute_dtype` is what the forward pass computes in, which may differ
    from how the 16-bit parts are stored; `digest` identifies the weights, `tokenizer_digest` the vocabulary."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    bits: int
    device: torch.device
    compute_dtype: torch.dtype
    digest: str
    tokenizer_digest: str
    original_digest: str = ""  # of the 16-bit weights that a stored quantised base was made from
    folder: Path | None = None  # where its files lie on this machine
    replaced: list[Replaced] = field(default_factory=list)  # what an adapter put in place of its own values
    # the base whose weights these modules share (`shared_base.py`)
    source: Base | None = field(default=None, repr=False, compare=False)
    stage: Stage | None = None  # the part that is here, where several processes hold it together
    host: HostBlocks | None = field(default=None, repr=False, compare=False)  # weights that lie in host memory
    sampling: SamplingSettings = SamplingSettings()  # how its texts are drawn where nothing else is asked for

    @property
    def path(self) -> str:
        """What stock PEFT can load it by on this machine: its Hub id, or its folder in full."""
        is_folder = self.name == "seedling" or Path(self.name).expanduser().is_dir()
        return str(self.folder.absolute()) if is_folder and self.folder else self.name

    @property
    def family(self) -> Family:
        return family_of(self.model.config.model_type)

    @property
    def packs(self) -> bool:
        """Whether rows of many quotes can be given to this model exactly."""
        return packs(self.family)

    @property
    def num_layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)

    def longest_row(self, asked: int) -> int:
        """Tokens of the longest row: as many as are asked for, or as a model with learned positions can read."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return min(asked, limit) if isinstance(limit, int) and limit > 0 else asked


def choose_device(request: str) -> torch.device:
    """The device for 'auto', 'cpu' or 'cuda'. Raises ModelError when CUDA is asked for and there is none."""
    if request == "cuda" and not torch.cuda.is_available():
        raise ModelError("no CUDA GPU found", _why_no_cuda())
    return torch.device("cuda" if request != "cpu" and torch.cuda.is_available() else "cpu")


def _why_no_cuda() -> str:
    """What to do about it: the cards may be hidden, this torch be built without CUDA, or find no driver or no card."""
    if (hidden := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None and torch.version.cuda is not None:
        return f"Unset CUDA_VISIBLE_DEVICES, which is {hidden!r} and may hide it, or use --device cpu"
    if torch.version.cuda is None:
        return "Use --device cpu, or install a CUDA build of torch"
    return f"Use --device cpu, or see that nvidia-smi lists a card whose driver knows CUDA {torch.version.cuda}"


def choose_compute_dtype(request: str, device: torch.device, bits: int, *, own_forward: bool = True) -> torch.dtype:
    """What to compute in: bfloat16 where the hardware multiplies it natively, unless the base is held in 32 bits.

    A card of compute capability 7 multiplies float16 instead. Its largest number is 65,504, so it takes a forward pass
    that keeps the residual stream in float32: ours does (`own_forward`), Transformers' own, which adds in what it
    multiplies in, gets float32 there."""
    if request != "auto":
        return DTYPES[request]
    if bits in (16, 32):
        return torch.bfloat16 if bits == 16 else torch.float32
    if device.type != "cuda":
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    # not is_bf16_supported(): it says yes of cards that only emulate it
    major, _ = fast_paths.compute_capability(device)
    return torch.bfloat16 if major >= 8 else torch.float16 if major == 7 and own_forward else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself (AVX512-BF16 or AMX), and oneDNN, which does it for
    torch, is let (ONEDNN_MAX_CPU_ISA); elsewhere float32 is faster."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    has = any(check() for check in checks if check is not None)
    return has and torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]


def load_base(
    name: str,
    *,
    bits: int = 8,
    device: torch.device | None = None,
    compute: str = "auto",
    revision: str | None = None,
    stage: Stage | None = None,
    progress: LoadProgress | None = None,
    offload: bool = False,
) -> Base:
    """The model `name` with its linears held in `bits` (in those that it is stored in, if it is quantised already), on
    `device`, in evaluation mode and without gradients; of its numbers those of `stage`, where it is one of a pipeline's.
    `progress` is told as its weights are read, of a whole model. `offload`: its blocks' weights in host memory.

    Raises ModelError when it is not there, not a causal LM, not in safetensors or would run code; ResourceError when it
    does not fit."""
    with model_errors(name) if bits in (8, 4) else contextlib.suppress(Exception):  # PEFT imports it too, where it can
        import_bitsandbytes()
    device = device or choose_device("auto")
    folder = locate(name, revision)
    config = read_config(folder, name)
    bits = stored_bits(config) or bits  # Transformers keeps a model that is quantised already as it is
    own_forward = packs(family_of(config.get("model_type")))
    compute_dtype = choose_compute_dtype(compute, device, bits, own_forward=own_forward)
    if compute_dtype == torch.float16 and not own_forward:
        fix = "Use --dtype float32, or leave --dtype out"
        raise ModelError(f"--dtype float16 is for BLOOM: the residual stream of {name} would overflow", fix)
    files = find_weights(folder, name)
    check_sizes(config, files)
    sampling = base_sampling(folder)  # before the weights: a file that cannot be read ends no run amid its samples
    with quietly(), model_errors(name, bits):
        tokenizer = load_tokenizer(folder, config, name)
        told = files.telling(progress if stage is None else None)
        host = fast_paths.host_blocks(device) if offload else None
        model = load_model(told, config, bits, device, compute_dtype, stage, host)
        embedding: Any = model.get_input_embeddings()
        with native_stderr_away():
            check_vocabulary(tokenizer, embedding.weight.shape[0], name)
            vocabulary = tokenizer_digest(tokenizer)
    model.eval().requires_grad_(False)
    digest = weights_digest(files)
    return Base(
        model,
        tokenizer,
        name,
        bits,
        device,
        compute_dtype,
        digest,
        vocabulary,
        original_digest(folder, digest),
        folder,
        stage=stage,
        host=host,
        sampling=sampling,
    )
