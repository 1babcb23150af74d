"""The recipe of the seedling: from an openly licensed teacher to a small BLOOM that writes English.

Run it with `python -m tools.seedling all --work DIR --teacher FILE.gguf` on a machine with one GPU. The stages, in
order:

    prompts      a seeded grid of what to ask the teacher            prompts.txt
    teacher      its answers, and what it thinks of its sayings      shards/*.jsonl
    filter       what is worth learning; held-out texts set aside    train.jsonl, heldout.jsonl
    tokenizer    byte-level BPE with BLOOM's special ids             tokenizer/
    pretrain     pack the documents, train the student               rows.npy, finest.npy, student/, pretrain.jsonl
    measure      bits per byte against a Kneser-Ney 5-gram, samples  measure.json, samples.txt
    export       the folder that ships                               src/florilegium/seedling/

A stage whose result exists is skipped; one that was interrupted goes on where it stopped.

The model that ships was made by this recipe's first version, with a smaller teacher (SmolLM2-135M-Instruct), 60 topics
and no judgement; its card says how. The next one comes from what stands here: one H200 wrote 370,392 texts in 341 s,
of which the filter keeps 147,594, 33.4 million characters; more of them are to be written before a student learns from them.

`sayings_to_come.jsonl` are 1,292 further sayings of our own, in 80 tags, and `tags_to_come.jsonl` the whole tags of 193
of today's in which one of the twenty new tags is plain: they join the sample together with that model.
"""
