"""What people paste from Transformers, PEFT, TRL, Axolotl, Unsloth, LLaMA-Factory: understood, or answered. Never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from florilegium.cli import foreign_answers
from florilegium.cli import foreign_flags as foreign
from florilegium.cli.commands import generate
from florilegium.cli.flags import config_from_flags
from florilegium.cli.parser import build_parser
from florilegium.config import TrainConfig
from florilegium.errors import UsageError

UNDERSTOOD = {
    "--lr 1e-4": {"learning_rate": 1e-4},
    "--lora-r 8": {"lora_rank": 8},
    "--lora_r=8": {"lora_rank": 8},
    "--r 8": {"lora_rank": 8},
    "--rank 8": {"lora_rank": 8},
    "--lora_alpha 16": {"lora_alpha": 16.0},
    "--lora_dropout 0": {"lora_dropout": 0.0},
    "--lora_target_modules all-linear": {"target_modules": "all-linear"},
    "--lora_target all": {"target_modules": "all-linear"},
    "--use_dora true --bits 16": {"dora": True, "bits": 16},
    "--use_rslora": {"rslora": True},
    "--use_rslora False": {},
    "--loraplus_lr_ratio 16": {"lora_plus_ratio": 16.0},
    "--load-in-4bit": {"bits": 4},
    "--load_in_4bit True": {"bits": 4},
    "--load-in-4bit false": {},
    "--load-in-8bit": {"bits": 8},
    "--quantization_bit 4": {"bits": 4},
    "--bf16": {"dtype": "bfloat16"},
    "--bf16 True": {"dtype": "bfloat16"},
    "--bf16 False": {},
    "--bnb_4bit_compute_dtype bfloat16": {"dtype": "bfloat16"},
    "--torch_dtype float32": {"dtype": "float32"},
    "--dtype fp32": {"dtype": "float32"},
    "--gradient-checkpointing": {"memory": "lean"},
    "--gradient_checkpointing true": {"memory": "lean"},
    "--use_gradient_checkpointing unsloth": {"memory": "lean"},
    "--activation_memory recompute": {"memory": "lean"},
    "--train-on tags": {"loss_on": "tags"},
    "--dataset_text_field text": {"text_column": "text"},
    "--num-train-epochs 5": {"epochs": 5.0},
    "--num_epochs 5": {"epochs": 5.0},
    "--max_train_steps 7": {"max_steps": 7},
    "--global-batch-size 32": {"batch_size": 32},
    "--batch-rows 32": {"batch_size": 32},
    "--lr-scheduler-type linear": {"lr_schedule": "linear"},
    "--lr_scheduler_type constant_with_warmup": {"lr_schedule": "constant"},
    "--schedule linear": {"lr_schedule": "linear"},
    "--warmup 0.1": {"warmup_ratio": 0.1},
    "--max_grad_norm 0.3": {"max_grad_norm": 0.3},
    "--clip 0.3": {"max_grad_norm": 0.3},
    "--optim adamw_torch": {"optimizer": "adamw"},
    "--optim paged_adamw_8bit": {"optimizer": "paged-adamw-8bit"},
    "--neftune-noise-alpha 5": {"neftune_alpha": 5.0},
    "--random_state 3407": {"seed": 3407},
    "--model-name-or-path bigscience/bloom-560m": {"model": "bigscience/bloom-560m"},
    "--base_model bigscience/bloom-560m": {"model": "bigscience/bloom-560m"},
    "--dataset-name Abirate/english_quotes": {"data": "Abirate/english_quotes"},
    "--dataset quotes.jsonl": {"data": "quotes.jsonl"},
    "--train_file quotes.jsonl": {"data": "quotes.jsonl"},
    "--max-seq-length 512": {"max_length": 512},
    "--cutoff-len 512": {"max_length": 512},
    "--sequence_len 512": {"max_length": 512},
    "--val_set_size 0.05": {"held_out": 0.05},
    "--test-size 0.05": {"held_out": 0.05},
    "--split-by cluster": {"split_by": "near-duplicates"},
    "--output-dir out": {"output": "out"},
    "--overwrite_output_dir": {"force": True},
    "--eval-steps 50": {"eval_every": 50},
    "--save-steps 50": {"save_every": 50},
    "--logging-steps 5": {"log_every": 5},
    "--save-total-limit 1": {"keep_checkpoints": 1},
    "--early_stopping_patience 3": {"early_stopping_patience": 3},
    "--fast block,loss": {"kernels": "fused-blocks,chunked-loss"},
    "--seq-len 512": {"max_length": 512},
    "--max-epochs 5": {"epochs": 5.0},
    "--mixed_precision bf16": {"dtype": "bfloat16"},
    "-o out": {"output": "out"},
    "-m bigscience/bloom-560m": {"model": "bigscience/bloom-560m"},
}

ANSWERED = {
    "--per-device-train-batch-size 4": "--batch-size N",
    "--per_device_train_batch_size=4": "--batch-size N",
    "--gradient-accumulation-steps 8": "--batch-size N",
    "--micro_batch_size 2": "--batch-size N",
    "--packing": "always packed",
    "--packing false": "always packed",
    "--sample_packing true": "always packed",
    "--fp16": "float16",
    "--tf32": "--dtype",
    "--warmup-steps 100": "--warmup-ratio",
    "--load-in-8bit false": "--bits 4, 16 or 32",
    "--quantize bnb.nf4": "--bits 4",
    "--bnb_4bit_quant_type nf4": "NF4",
    "--attn_implementation flash_attention_2": "--kernels",
    "--flash_attn fa2": "--kernels",
    "--deepspeed ds.json": "--gpus N",
    "--device_map auto": "--device",
    "--use_peft": "always used",
    "--finetuning_type lora": "LoRA",
    "--modules_to_save lm_head": "--target-modules",
    "--columns quote,tags": "--template",
    "--validation_split_percentage 5": "--held-out",
    "--eval_strategy steps": "--eval-every",
    "--save-strategy epoch": "--save-every",
    "--load_best_model_at_end": "lowest held-out loss",
    "--resume_from_checkpoint last": "florilegium resume",
    "--run_name a": "--output runs/NAME",
    "--push-to-hub": "florilegium push",
    "--trust_remote_code": "never run",
    "--hf_token hf_abcdefghijklmnop": "HF_TOKEN",
    "--do_train": "trains",
    "--lora_target_linear": "--target-modules all-linear",
    "--adapter lora": "--from RUN",
    "--plot_loss": "report.html",
    "--overwrite_cache": "no cache",
    "--loftq_config a": "--lora-init",
    "--adam_beta1 0.9": "0.999",
    "--dataloader_num_workers 4": "one process",
    "--bias none": "biases are not trained",
    "--batch 4": "--batch-size N",
    "--disable_gradient_checkpointing": "--memory fast",
    "--adapter_name_or_path a": "--from RUN",
    "--cache_dir a": "HF_HOME",
    "--delimiter ;": "--tags-separator",
    "--limit 10": "all rows",
    "--lora": "always used",
    "--model_type bloom": "config.json",
    "--temperature 0.3": "florilegium generate",
    "--hub_token hf_abcdefghijklmnop": "HF_TOKEN",
    "-q": "stderr",
}

# Settings of these programs with a name like one of ours that means something else: no guess.
NEAR_AND_ELSEWHERE = [
    "activation_checkpointing_kwargs", "add_tokens", "base_model_config", "dataset_test_split",
    "dataset_train_split", "enable_jit_checkpoint", "eva_config", "eval_delay", "eval_on_each_dataset",
    "eval_table_size", "fsdp_config", "gpu_memory_utilization", "hub_revision", "log_level",
    "logging_first_step", "lora_target_parameters", "max_lora_rank", "optim_target_modules", "push_model",
    "quantization_type", "train_on_eos",
]  # fmt: skip

GENERATION = {
    "--count 7": ("n", 7),
    "--num-return-sequences 7": ("n", 7),
    "--max-tokens 30": ("max_new_tokens", 30),
    "--temp 0.3": ("temperature", 0.3),
    "--greedy": ("temperature", 0.0),
    "--repeat_penalty 1.2": ("repetition_penalty", 1.2),
    "--adapter-path runs/a": ("run", "runs/a"),
    "--load_in_4bit": ("bits", 4),
    "--base The": ("prompt", "The"),
    "-t 0.3": ("temperature", 0.3),
    "-s 7": ("seed", 7),
    "-r runs/a": ("run", "runs/a"),
    "-i": ("interactive", True),
}


def parse(line: str) -> dict[str, object]:
    """The settings of `florilegium train LINE` that are not the defaults."""
    config = config_from_flags(build_parser().parse_known(["train", *line.split()]))
    return {name: value for name, value in vars(config).items() if value != getattr(TrainConfig(), name)}


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_a_foreign_flag_is_understood(line: str) -> None:
    expected = {n: v for n, v in UNDERSTOOD[line].items() if v != getattr(TrainConfig(), n)}
    assert parse(line) == expected


@pytest.mark.parametrize("line", ANSWERED)
def test_a_foreign_flag_is_answered(line: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(line)
    assert ANSWERED[line] in str(error.value) and "Did you mean" not in str(error.value)
    assert "abcdefghijklmnop" not in str(error.value)


@pytest.mark.parametrize("name", NEAR_AND_ELSEWHERE)
def test_a_setting_of_another_meaning_gets_no_guess(name: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(f"{name}: 1\n")
    for line in (f"--{name} 1", f"--config {tmp_path / 'run.yaml'}"):
        with pytest.raises(UsageError, match="unknown") as error:
            parse(line)
        assert "Did you mean" not in str(error.value)


@pytest.mark.parametrize("line", GENERATION)
def test_a_foreign_flag_of_generation_is_understood(line: str) -> None:
    name, value = GENERATION[line]
    assert getattr(build_parser().parse_known(["generate", *line.split()]), name) == value


@pytest.mark.parametrize(
    "line", ["--num-beams 4", "--max-length 50", "--do_sample true", "--output a.txt", "--min-p 0.1"]
)
def test_a_foreign_flag_of_generation_is_answered(line: str) -> None:
    with pytest.raises(UsageError) as error:
        build_parser().parse_known(["generate", *line.split()])
    assert "Did you mean" not in str(error.value) and error.value.fix


@pytest.mark.parametrize(
    "line,says",
    [
        ("--gguf q8_0", "--to gguf --type q8_0"),
        ("--merged", "--to merged"),
        ("--ollama", "Modelfile"),
        ("--push_to_hub", "push"),
    ],
)
def test_a_form_of_export_asked_for_by_a_flag_is_answered(line: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        build_parser().parse_known(["export", "runs/a", *line.split()])
    assert says in str(error.value) and "unknown" not in str(error.value)
    assert build_parser().parse_known(["export", "--to", "gguf", "--outtype", "q8_0"]).type == "q8_0"


def test_every_row_of_the_tables_does_what_it_says() -> None:
    """At least 60 names; each leads to a flag that is there, and no name has two meanings."""
    commands = {
        name: build_parser().subparser(name)._option_string_actions
        for name in ("train", "generate", "evaluate", "export")
    }
    tables = (
        ("train", foreign.SAME_IN_TRAINING, foreign.SWITCHES, foreign_answers.ANSWERS_IN_TRAINING),
        ("generate", foreign.SAME_IN_GENERATION, foreign.SWITCHES_IN_GENERATION, foreign_answers.ANSWERS_IN_GENERATION),
        ("export", foreign.SAME_IN_EXPORT, {}, foreign_answers.ANSWERS_IN_EXPORT),
        ("evaluate", foreign.SAME_IN_EVALUATION, foreign.SWITCHES_IN_EVALUATION, {}),
    )
    for command, same, switches, answers in tables:
        flags = commands[command]
        for target in (*same.values(), *(flag for flag, _ in switches.values())):
            assert "--" + target in flags or "-" + target in flags, (command, target)
        names = [*same, *switches, *answers]
        assert len(names) == len(set(names)), command
        assert not [n for n in names if "--" + n in flags], command
        for why, fix in answers.values():
            assert why and fix
    assert len(foreign.SAME_IN_TRAINING) + len(foreign.SWITCHES) + len(foreign_answers.ANSWERS_IN_TRAINING) >= 60


@pytest.mark.parametrize(
    "line,meant",
    [
        ("--lerning-rate 1", "--learning-rate"),
        ("--epoch 3", "--epochs"),
        ("--lora-rnk 3", "--lora-rank"),
        ("--gradient-checkpoint", "--memory lean"),
        ("--foo 3", ""),
        ("--per-device-batch-size 3", ""),
        ("--cpu-offload", ""),
        ("--beta 3", ""),
        ("--nosuch", ""),
        ("--loss-type x", ""),
        ("--rope-scaling 2", ""),
        ("--learningrate 1", "--learning-rate"),
        ("--batchsize 8", "--batch-size"),
    ],
)
def test_a_typing_error_gets_a_near_name_or_none(line: str, meant: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(line)
    assert (f"Did you mean {meant!r}?" if meant else "See: florilegium train --help") == error.value.fix


def test_data_is_given_once() -> None:
    with pytest.raises(UsageError, match="DATA is given twice"):
        parse("a.jsonl --dataset b.jsonl")
    assert parse("--dataset b.jsonl --epochs 1") == {"data": "b.jsonl", "epochs": 1.0}


def test_a_config_file_may_use_the_same_names(tmp_path: Path) -> None:
    file = tmp_path / "axolotl.yaml"
    file.write_text(
        "base_model: bigscience/bloom-560m\nlora_r: 8\nload_in_4bit: true\nbf16: false\noptim: adamw_torch\n"
        "output_dir: out\nlr: 2e-4\nrank: 8\nuse_dora: false\n"
    )
    assert parse(f"--config {file}") == {
        "model": "bigscience/bloom-560m", "lora_rank": 8, "bits": 4, "output": "out", "learning_rate": 2e-4,
    }  # fmt: skip
    file.write_text("micro_batch_size: 2\n")
    with pytest.raises(UsageError, match="axolotl.yaml: micro_batch_size: --batch-size counts"):
        parse(f"--config {file}")


@pytest.mark.parametrize(
    "word,command",
    [("eval", "evaluate"), ("finetune", "train"), ("compare", "report"), ("list", "runs"), ("merge", "export")],
)
def test_a_foreign_command_is_understood(word: str, command: str) -> None:
    assert build_parser().parse_known([word]).command == command


def test_an_unknown_command_gets_a_near_name() -> None:
    with pytest.raises(UsageError, match="unknown command 'trian'. Did you mean 'train'?"):
        build_parser().parse_known(["trian"])


@pytest.mark.parametrize(
    ("command", "given", "dest", "value"),
    [
        ("estimate", ["--rank", "32"], "lora_rank", 32),
        ("estimate", ["--num-train-epochs", "3"], "epochs", 3.0),
        ("chat", ["--temp", "0.5"], "temperature", 0.5),
    ],
)
def test_estimate_and_chat_know_the_names_of_train_and_generate(
    command: str, given: list[str], dest: str, value: object
) -> None:
    flags = build_parser().parse_known([command, *given])
    assert getattr(flags, dest) == value


def test_flags_win_over_a_file_that_contradicts_itself(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("dora: true\n")
    flags = build_parser().parse_known(["train", "--config", str(tmp_path / "run.yaml"), "--bits", "16"])
    config = config_from_flags(flags)
    assert config.dora and config.bits == 16
    (tmp_path / "run.yaml").write_text("lora_rank: many\n")
    with pytest.raises(UsageError, match="run.yaml: "):
        config_from_flags(flags)


def test_a_prompt_of_several_words_wants_quotes() -> None:
    with pytest.raises(
        UsageError, match="unknown argument 'sea'. Put what has spaces in quotes. See: florilegium generate"
    ):
        build_parser().parse_known(["generate", "The", "sea"])


@pytest.mark.parametrize("given", [["The sea"], ["--label", "Be kind."]])
def test_a_prompt_beside_a_file_of_prompts_is_refused(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("A friend\n")
    flags = build_parser().parse_known(["generate", *given, "--prompts", str(tmp_path / "prompts.txt")])
    with pytest.raises(UsageError, match="--prompts is given beside"):
        generate.run(flags)
