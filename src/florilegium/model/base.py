"""Load the frozen base: a causal language model and its tokenizer, quantised by bitsandbytes, checked before a byte is
trusted.

    "seedling"                     the small BLOOM in this package
    a folder that exists           as Transformers saves it
    "bigscience/bloom-560m"        from the Hub (or its cache), at --revision

Only safetensors weights are read and no code from a model's folder is run. The embedding keeps its 16 bits: turning it
to float32, as PEFT's prepare_model_for_kbit_training does, makes bloom-560m in int8 larger than it is in fp16 (its
250,880-row embedding is 46% of it)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from florilegium.errors import FlorilegiumError, ModelError, ResourceError
from florilegium.model.bitsandbytes_import import import_bitsandbytes
from florilegium.model.bloom_loader import load_streamed
from florilegium.model.untrusted import check_weights, read_json, refuse_code
from florilegium.seedling import FOLDER as SEEDLING
from florilegium.storage.run_directory import check_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges.txt"]
PROBE = "It's 3,14\u2014\u201c\u00catre\u201d \u00e9 e\u0301 ->: 数学, हिन्दी; don't\n\t  STOP... ﬁne"
NO_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
DIGEST_SLICES, DIGEST_SLICE_BYTES = 64, 65_536


@dataclass
class Base:
    """A frozen model ready to take an adapter. `compute_dtype` is what the packed walk computes in, which may differ
    from how the 16-bit parts are stored; `digest` identifies the weights, `tokenizer_digest` the vocabulary."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    bits: int
    device: torch.device
    compute_dtype: torch.dtype
    digest: str
    tokenizer_digest: str

    @property
    def packs(self) -> bool:
        """Whether rows of many quotes can be given to this model exactly."""
        return str(self.model.config.model_type) == "bloom"


def choose_device(request: str) -> torch.device:
    """The device for 'auto', 'cpu' or 'cuda'. Raises ModelError when CUDA is asked for and there is none."""
    if request == "cuda" and not torch.cuda.is_available():
        raise ModelError("no CUDA device is there", "Use --device cpu, or install a CUDA build of torch")
    return torch.device("cuda" if request != "cpu" and torch.cuda.is_available() else "cpu")


def choose_compute_dtype(request: str, device: torch.device, bits: int) -> torch.dtype:
    """What to compute in: bfloat16 where the hardware multiplies it natively, unless the base is held in 32 bits."""
    if request != "auto":
        return torch.bfloat16 if request == "bfloat16" else torch.float32
    if bits == 32:
        return torch.float32
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
    return torch.bfloat16 if native or bits == 16 else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices itself (AVX512-BF16 or AMX); elsewhere float32 is faster."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def load_base(
    name: str, *, bits: int = 8, device: torch.device | None = None, compute: str = "auto", revision: str | None = None
) -> Base:
    """The model `name` with its linears held in `bits`, on `device`, in evaluation mode and without gradients.

    Raises ModelError when it is not there, not a causal LM, not in safetensors or would run code; ResourceError when it
    does not fit."""
    with model_errors(name) if bits in (8, 4) else contextlib.suppress(Exception):  # PEFT imports it too, where it can
        import_bitsandbytes()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = device or choose_device("auto")
    folder = locate(name, revision)
    config = _read_config(folder, name)
    compute_dtype = choose_compute_dtype(compute, device, bits)
    # BLOOM is walked by our own forward pass, which casts as it goes; other models compute in the dtype they are stored
    # in.
    stored = torch.float32 if bits == 32 else torch.bfloat16 if config.get("model_type") == "bloom" else compute_dtype
    options: dict[str, Any] = {
        "dtype": stored,
        "device_map": {"": str(device)},
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    if bits in (8, 4):
        options["quantization_config"] = _quantisation(bits, compute_dtype)
    check_weights(folder, config, name)
    with _quietly(), model_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = None
        if "quantization_config" in options and device.type == "cuda" and config.get("model_type") == "bloom":
            model = load_streamed(folder, options["quantization_config"], device)
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(folder, **options)
    model.eval().requires_grad_(False)
    return Base(
        model,
        tokenizer,
        name,
        bits,
        device,
        compute_dtype,
        weights_digest(folder),
        tokenizer_digest(tokenizer),
    )


def locate(name: str, revision: str | None = None) -> Path:
    """The local folder of the model `name`, downloaded if it is a Hub id that is not cached. Raises ModelError."""
    if name == "seedling" and not Path(name).is_dir():
        return SEEDLING
    path = check_path(name, "--model")
    if path.is_dir():
        refuse_code(path, name)
        return path
    if path.exists():
        raise ModelError(f"{name} is a file", "Name the folder that holds config.json and the safetensors weights")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"no model folder at {name}", "Name a folder, a Hub id such as bigscience/bloom-560m, or 'seedling'"
        )
    folder = _download(name, revision)
    refuse_code(folder, name)
    return folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=HUB_FILES))
    except Exception as error:  # the Hub client raises many kinds; each means the same to the person at the terminal
        kind = type(error).__name__
        if "RepositoryNotFound" in kind or "RevisionNotFound" in kind or "HFValidation" in kind:
            fix = "Check its spelling on huggingface.co; a private or gated model wants HF_TOKEN"
        elif os.environ.get("HF_HUB_OFFLINE") or "Offline" in kind:
            fix = "HF_HUB_OFFLINE is set: unset it, or name a local folder, or use --model seedling"
        else:
            fix = "Check the network, or name a local folder, or use --model seedling"
        raise ModelError(f"cannot get the model {name} from the Hub ({kind})", fix) from error


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    """config.json, refused where there is none or the folder holds no safetensors weights."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json", "Name the folder that Transformers' save_pretrained made")
    config = read_json(folder / "config.json", f"the config.json of {name}")
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{name} has no safetensors weights", "Pickled weights are not read: convert them with safetensors first"
        )
    return config


def _quantisation(bits: int, compute_dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )


class _quietly:
    """Keeps Transformers' progress bars and advice off the terminal while a model loads."""

    def __enter__(self) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.level = transformers.utils.logging.get_verbosity()
        transformers.utils.logging.set_verbosity_error()
        self.caught = warnings.catch_warnings()
        self.caught.__enter__()
        warnings.simplefilter("ignore")

    def __exit__(self, *exc: object) -> None:
        import transformers

        self.caught.__exit__(None, None, None)
        transformers.utils.logging.set_verbosity(self.level)


class model_errors:
    """Turns what a loader raises on a broken or unfitting model into ModelError, and a full memory into
    ResourceError."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, FlorilegiumError) or not isinstance(error, Exception):
            return
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(said in str(error) for said in NO_MEMORY):
            raise ResourceError(f"{self.name} does not fit in memory", "Try --bits 4, or a smaller --model") from error
        if isinstance(error, OSError) and error.errno:
            cause = f"{self.name} cannot be read ({error.strerror or error})"
            raise ModelError(cause, "Look at the disk and the files' permissions, or get it again") from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ModelError(
            f"cannot load {self.name} ({first})", "Check that it is a causal LM that Transformers knows"
        ) from error


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over what decides a text's ids: vocabulary, special tokens, merges, and (for what comes before the merges,
    whose description changes with the library's version) the ids of PROBE."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    merges = json.loads(backend.to_str())["model"].get("merges", []) if backend is not None else []
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    parts = [
        sorted(tokenizer.get_vocab().items()),
        str(tokenizer.special_tokens_map),
        pairs,
        tokenizer(PROBE)["input_ids"],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def weights_digest(folder: Path) -> str:
    """sha256 over name, size and 64 evenly spread slices of each weight file: tells two models apart without reading 14
    GB."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for i in range(DIGEST_SLICES):
                file.seek(max(0, size - DIGEST_SLICE_BYTES) * i // (DIGEST_SLICES - 1))
                digest.update(file.read(DIGEST_SLICE_BYTES))
    return digest.hexdigest()
