"""
Two tokenizers
==============

A small language model of random weights, with a tokenizer of its own, learns 40 kB of Python's manual: from the text
alone, and from a large model too. The predictions of the large one are computed once, and their 64 leading entries are
kept. The logits of the small one are formed some rows at a time. Run it by ``python examples/distil_smollm.py``; half
of its time is the large model's. It needs the model, SmolLM2-135M-Instruct, as ``examples/stream_smollm.py`` does.
"""

import argparse
import math
import random
import time

from stream_smollm import pretrained

PIECE, KNOWN, VOCABULARY, BATCH = 400, 64, 1000, 10


def tokenizer_of(texts):
    """A byte-level tokenizer with a vocabulary of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet(), "show_progress": False}
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["</s>"], **options))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="</s>", eos_token="</s>")


def student():
    """A small language model, random but the same each time."""
    import transformers

    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=PIECE, n_embd=128, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def batches_of(texts, collator, teacher):
    """The batches, each with the leading entries of the teacher's predictions."""
    import torch

    from otkit.losses import Alignment, TopK

    batches = []
    narrow = torch.backends.cpu.get_cpu_capability() == "AVX512"  # bfloat16 takes several times as long on others
    for first in range(0, len(texts), BATCH):
        batch = collator(texts[first : first + BATCH])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            logits = teacher(**batch["teacher_inputs"], use_cache=False).logits
        known = logits.topk(KNOWN, -1)
        batch["teacher"] = TopK(known.indices, known.values.float() - logits.float().logsumexp(-1, keepdim=True))
        batch["alignment"] = Alignment(batch["spans"], batch["teacher_spans"])
        batches.append(batch)
    return batches


def perplexity(model, batch):
    """Of a token of texts."""
    import torch

    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        return math.exp(model.eval()(**inputs).loss)


def perplexities(batches, held_out, objective, epochs):
    """Those of new texts after each quarter of the training of a student by an objective."""
    import torch

    from otkit.losses import Head

    model, order, found = student(), random.Random(0), []
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(batches))
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in order.sample(batches, len(batches)):
            states = model.transformer(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            logits = Head(states, model.lm_head.weight)
            loss = objective(logits, batch["teacher"], batch["labels"], alignment=batch["alignment"])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        if epoch % max(1, epochs // 4) == 0:
            found.append(perplexity(model, held_out))
    return found


def main():
    """Print the perplexity of new texts in the course of training, without a teacher and with one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pieces", type=int, default=100, help="of 400 characters, to learn from")
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    teacher, teacher_tokenizer = pretrained()
    from pydoc_data.topics import topics

    from otkit.losses import AlignedCollator, DistillationObjective, VocabularyMap

    text = "\n".join(topics[name] for name in sorted(topics))
    pieces = [text[first : first + PIECE] for first in range(0, len(text) - PIECE, PIECE)]
    random.Random(0).shuffle(pieces)
    texts, new = pieces[: args.pieces], pieces[-100:]
    tokenizer = tokenizer_of(texts)
    collator = AlignedCollator(tokenizer, teacher_tokenizer)
    start = time.perf_counter()
    batches, held_out = batches_of(texts, collator, teacher), collator(new)
    print(f"teacher: {time.perf_counter() - start:.0f} s")
    vocabulary = VocabularyMap.of(tokenizer, teacher_tokenizer)
    for name, kd in (("text alone", 0.0), ("text and teacher", 0.5)):
        start = time.perf_counter()
        objective = DistillationObjective(kd=kd, ot=0.0, shift=True, vocabulary=vocabulary)
        found = perplexities(batches, held_out, objective, args.epochs)
        print(f"{name}: {', '.join(f'{v:.1f}' for v in found)}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
