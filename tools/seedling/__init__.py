"""The recipe of the seedling: from an openly licensed teacher to a small BLOOM that writes English.

Run it with `python -m tools.seedling all --work DIR --teacher FILE.gguf` on a machine with one GPU. The stages, in
order:

    prompts      a seeded grid of what to ask the teacher            prompts.txt
    teacher      its answers, and what it thinks of its sayings      shards/*.jsonl
    filter       what is worth learning; held-out texts set aside    train.jsonl, heldout.jsonl
    tokenizer    byte-level BPE with BLOOM's special ids             tokenizer/
    pretrain     pack the documents, train the student               rows.npy, finest.npy, student/, pretrain.jsonl
    measure      bits per byte against a Kneser-Ney 5-gram, samples  measure.json, samples.txt
    candidates   sayings for the sample, which nobody has learnt      candidates.tsv
    export       the folder that ships                               src/florilegium/seedling/

A stage whose result exists is skipped; one that was interrupted goes on where it stopped.

The model that ships: one H200 wrote 669,000 texts in 640 s (`teacher`, two stretches); `filter` keeps 243,078 of them, 62.2
million characters; `tokenizer` and `pretrain --epochs 10` took two minutes more. The held-out loss stood still from the
fifth pass on (1.83 nats a token, then 1.84) and rose to 1.95 in the last quarter, which reads sayings above all: five passes
are the default now. The sample was chosen by reading 4,200 candidates.
"""
