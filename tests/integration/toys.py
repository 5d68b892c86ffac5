"""A quantiser and a sequence model as small as they go: what a new one costs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from genrec.checkpoint import load_model_files
from genrec.data.catalogue import Catalogue
from genrec.models.saved import SavedModel
from genrec.models.score_ranker import ScoreRanker
from genrec.settings import setting
from genrec.training.sequence_training import SequenceSettings, train_sequence


class Signs(nn.Module):
    """Codes are the signs of embeddings on random directions, some bits a level."""

    distance = "l2"

    def __init__(self, input_dim, codebook_sizes):
        super().__init__()
        self.input_dim, self.codebook_sizes = input_dim, tuple(codebook_sizes)
        self.config = {"model": "signs", "input_dim": input_dim}
        self.config["codebook_sizes"] = list(codebook_sizes)
        bits = [size.bit_length() - 1 for size in codebook_sizes]
        self.register_buffer("directions", torch.randn(len(bits), max(bits), input_dim))

    @classmethod
    def fit(cls, items, *, codebook_sizes, seed, **unused):
        torch.manual_seed(seed)
        return cls(items.shape[1], codebook_sizes)

    @classmethod
    def load_from_checkpoint(cls, path):
        config, weights = load_model_files(path)
        model = cls(config["input_dim"], config["codebook_sizes"])
        model.load_state_dict(weights)
        return model.eval()

    def encode(self, x):
        return x

    def get_codebook(self):
        return [torch.zeros(size, self.input_dim) for size in self.codebook_sizes]

    def get_codebook_entry(self, ids):
        return torch.zeros(len(ids), self.input_dim)

    def get_semantic_ids(self, x):
        positive = torch.einsum("bx,lkx->blk", x.float(), self.directions) > 0
        return (positive * 2 ** torch.arange(positive.shape[-1])).sum(-1)


class Averages(SavedModel):
    """Scores items by their likeness to the mean of the history."""

    trained_by = "the test of what a new model costs"

    def __init__(self, num_items, width):
        super().__init__()
        self.items = nn.Embedding(num_items, width)
        nn.init.normal_(self.items.weight, std=0.1)
        self.config = {"num_items": num_items, "width": width}

    def scores(self, history):
        kept = (history >= 0).unsqueeze(-1)
        mean = (self.items(history.clamp(min=0)) * kept).sum(1) / kept.sum(1).clamp(min=1)
        return F.linear(mean, self.items.weight)

    forward = scores

    def ranker(self, catalogue, options):
        device = self.items.weight.device
        return ScoreRanker("averages", catalogue, self.scores, options["max_history"], device)


@dataclass(frozen=True, kw_only=True)
class AveragesSettings(SequenceSettings):
    width: int = setting("Width of the item vectors", 16, least=1)


class AveragesTask:
    name, meta = "averages", {}

    def __init__(self, data, settings):
        self.catalogue = Catalogue.from_data(data)
        self.model = Averages(data.num_items, settings.width)

    def loss(self, module, batch):
        return F.cross_entropy(module(batch.history), batch.targets[:, 0]), {}

    def save(self, run):
        pass


def train(settings):
    return train_sequence(settings, lambda data, device: AveragesTask(data, settings))
