"""Training speed beside Hugging Face's T5 padded to 20 items, with the same parameters."""

import argparse
import json
import os
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers
from _bench import build_ids, open_data, versions

from genrec.allocator import keep_freed_memory
from genrec.data.batching import TokenTable, TrainingBatches
from genrec.data.schemas import TokenizedBatch
from genrec.data.sequence_dataset import SeqData
from genrec.models.retrieval import EncoderDecoderRetrievalModel
from genrec.models.t5 import to_t5
from genrec.models.token_layout import PAD_TOKEN

MAX_ITEMS = 20


def sample(loader: TrainingBatches, table: TokenTable, steps: int) -> list[TokenizedBatch]:
    """Batches of an epoch as codes, evenly spread over its lengths, in the epoch's own order."""
    batches = [table.tokenize(batch) for batch in loader.batches(0)]
    by_length = np.argsort([batch.history.shape[1] for batch in batches], kind="stable")
    chosen = by_length[((np.arange(steps) + 0.5) * len(batches) / steps).astype(int)]
    return [batches[number] for number in np.sort(chosen)]


def measure(
    step: Callable[[TokenizedBatch], int], loader: TrainingBatches, table: TokenTable, steps: int
) -> float:
    """Samples a second, after two steps that are not counted."""
    batches = sample(loader, table, steps)
    for batch in batches[:2]:
        step(batch)
    if loader.items.is_cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    samples = sum(step(batch) for batch in batches)
    if loader.items.is_cuda:
        torch.cuda.synchronize()
    return samples / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON line only")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--hf-steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    data, name = open_data()
    tokenizer = build_ids(data)
    examples = SeqData(data, "train", max_history=MAX_ITEMS)
    table = TokenTable.build(examples, tokenizer.ids, device=args.device)

    def own(mode: str, encoder_mask: str) -> float:
        model = EncoderDecoderRetrievalModel(
            num_embeddings=tokenizer.level_sizes,
            sem_id_dim=tokenizer.num_levels,
            encoder_mask=encoder_mask,
        ).to(args.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        loader = TrainingBatches(
            examples, batch_size=args.batch_size, mode=mode, device=args.device
        )

        def step(batch: TokenizedBatch) -> int:
            model(batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return int((batch.targets[..., 0] >= 0).sum())

        return measure(step, loader, table, args.steps)

    def hugging_face() -> float:
        model = EncoderDecoderRetrievalModel(
            num_embeddings=tokenizer.level_sizes, sem_id_dim=tokenizer.num_levels
        )
        t5 = to_t5(model).to(args.device).train()
        optimizer = torch.optim.AdamW(t5.parameters(), lr=1e-3)
        loader = TrainingBatches(
            examples, batch_size=args.batch_size, mode="padded", device=args.device
        )

        def step(batch: TokenizedBatch) -> int:
            tokens = model.layout.history_tokens(batch.history, None)
            wide = MAX_ITEMS * model.layout.tokens_per_item
            tokens = torch.nn.functional.pad(tokens, (0, wide - tokens.shape[1]), value=PAD_TOKEN)
            labels = model.layout.item_tokens(batch.targets[:, 0])
            mask = (tokens != PAD_TOKEN).long()
            t5(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(t5.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            return len(tokens)

        return measure(step, loader, table, args.hf_steps)

    # The peer first, in a process as PyTorch leaves it; then what our training sessions set.
    rates = {"hf_samples_per_s": hugging_face()}
    if args.device == "cpu":
        keep_freed_memory()
    rates["samples_per_s"] = own("bucketed", "full")
    rates["packed_samples_per_s"] = own("packed", "item_causal")
    found = {key: round(rate, 1) for key, rate in rates.items()}
    found["ratio"] = round(rates["samples_per_s"] / rates["hf_samples_per_s"], 2)
    found["packed_ratio"] = round(rates["packed_samples_per_s"] / rates["hf_samples_per_s"], 2)
    found |= {"data": name, "batch_size": args.batch_size}
    found |= {"device": args.device, "threads": args.threads}
    found["versions"] = versions("torch", "transformers")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
