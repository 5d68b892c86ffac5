"""Stage one's speed: training steps a second beside vector_quantize_pytorch, items tokenized.

Both sides run an encoder and a decoder of the same shape, batches of the same size and AdamW, in
the same precision. The other side is what one writes with PyTorch and that package, defaults left
alone. In full precision the matrix products of encoder and decoder, the same on both sides, leave
little to win; see the key mlp_steps_per_s, the step without any quantiser.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from genrec.models.rqvae import FeatureSettings, MlpSettings, RqVae, RqVaeParts
from genrec.training.optimizer import OptimizerSettings, build_optimizer

INPUT_DIM, HIDDEN_DIMS, EMBED_DIM = 384, (512, 256, 128), 32
NUM_CODES, NUM_LEVELS, BATCH_SIZE, NUM_ITEMS = 256, 3, 2048, 12_101


def plain_mlp(widths: list[int]) -> nn.Sequential:
    """Linear layers with ReLU in between."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [nn.Linear(width_in, width_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PeerModel(nn.Module):
    """The same autoencoder in plain PyTorch around ``ResidualVQ``."""

    def __init__(self) -> None:
        super().__init__()
        from vector_quantize_pytorch import ResidualVQ

        widths = [INPUT_DIM, *HIDDEN_DIMS, EMBED_DIM]
        self.encoder, self.decoder = plain_mlp(widths), plain_mlp(widths[::-1])
        self.quantizer = ResidualVQ(
            dim=EMBED_DIM, codebook_size=NUM_CODES, num_quantizers=NUM_LEVELS
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss of a batch."""
        quantized, _, commitment = self.quantizer(self.encoder(x)[:, None])
        recon = (self.decoder(quantized[:, 0]) - x).square().sum(dim=1).mean()
        return recon + commitment.sum()


def stepper(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    items: Tensor,
    after: Callable[[], None],
    *,
    half: bool,
) -> Callable[[], None]:
    """Return a function that makes one whole training step."""
    generator = torch.Generator().manual_seed(0)
    model.train()

    def step() -> None:
        rows = torch.randint(len(items), (BATCH_SIZE,), generator=generator).to(items.device)
        with torch.autocast(items.device.type, dtype=torch.bfloat16, enabled=half):
            loss = loss_of(items.index_select(0, rows))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        after()

    return step


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Time one call, the device's queue included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30, help="timed steps of each side")
    parser.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="both sides")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    items = torch.nn.functional.normalize(torch.randn(NUM_ITEMS, INPUT_DIM), dim=1).to(device)
    model = RqVae(
        INPUT_DIM,
        embed_dim=EMBED_DIM,
        hidden_dims=HIDDEN_DIMS,
        codebook_size=NUM_CODES,
        n_layers=NUM_LEVELS,
        parts=RqVaeParts(
            mlp=MlpSettings(activation="relu"), features=FeatureSettings(scale=INPUT_DIM**0.5)
        ),
    ).to(device)
    model.initialize_codebooks(items)
    half = args.precision == "bf16"
    optimizer = build_optimizer(model.parameters(), OptimizerSettings())
    steps = {
        "steps_per_s": stepper(
            optimizer, model, lambda x: model(x).loss, items, model.update_codebooks, half=half
        )
    }
    bare = nn.Sequential(model.encoder, model.decoder)
    steps["mlp_steps_per_s"] = stepper(
        optimizer,
        bare,
        lambda x: (bare(x) - x).square().sum(dim=1).mean(),
        items,
        lambda: None,
        half=half,
    )
    try:
        peer = PeerModel().to(device)
        peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3)
        steps["peer_steps_per_s"] = stepper(
            peer_optimizer, peer, peer, items, lambda: None, half=half
        )
    except ImportError:
        print("pip install vector-quantize-pytorch to compare", file=sys.stderr, flush=True)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for round_number in range(args.steps + 5):  # turn by turn, so that a busy machine hits both
        for name, step in steps.items():
            seconds = seconds_of(step, device)
            if round_number >= 5:
                times[name].append(seconds)
    found = {name: 1 / statistics.median(values) for name, values in times.items()}
    if "peer_steps_per_s" in found:
        found["ratio"] = found["steps_per_s"] / found["peer_steps_per_s"]
    model.eval()
    rate = [seconds_of(lambda: model.get_semantic_ids(items), device) for _ in range(5)]
    found["items_per_s"] = NUM_ITEMS / statistics.median(rate)
    found["peak_mib"] = (
        torch.cuda.max_memory_allocated() / 2**20
        if device.type == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    rounded: dict[str, float | str] = {name: round(value, 2) for name, value in found.items()}
    rounded["precision"] = args.precision
    if args.json:
        print(json.dumps(rounded))
        return
    print(f"{torch.get_num_threads()} threads, {device}, batch {BATCH_SIZE}")
    for name, value in rounded.items():
        print(f"{name:>18}: {value if isinstance(value, str) else format(value, ',')}")


if __name__ == "__main__":
    main()
