"""The task in FuxiCTR: its embeddings, cross network and MLP in its `BaseModel`, trained by that model's own step.

The package holds these parts; the models that are made of them stand in the project's repository only.
"""

from __future__ import annotations

import itertools
import tempfile

import task
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel

LABEL = "click"


class DCNv2(BaseModel):
    def __init__(self, fields: FeatureMap, folder: str) -> None:
        super().__init__(fields, verbose=0, model_root=folder, metrics=["AUC"])
        width = task.FIELDS * task.DIM
        self.embedding_layer = FeatureEmbedding(
            fields, task.DIM, embedding_initializer=f"partial(nn.init.normal_, std={task.SPREAD})"
        )
        self.crosses = CrossNetV2(width, task.CROSSES)
        self.mlp = MLP_Block(width, hidden_units=list(task.MLP))
        self.head = torch.nn.Linear(width + task.MLP[-1], 1)
        self.compile("adam", "binary_crossentropy", task.RATE)
        self.reset_parameters()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        y = self.head(torch.cat([self.crosses(x), self.mlp(x)], dim=-1))
        return {"y_pred": self.output_activation(y)}


def main() -> None:
    given = task.arguments()
    torch.manual_seed(0)
    torch.set_num_threads(task.cores())
    with tempfile.TemporaryDirectory() as folder:
        fields = FeatureMap("peers", folder)
        for name, size in zip(task.names(), task.sizes(given.large), strict=True):
            fields.features[name] = {"source": "", "type": "categorical", "padding_idx": 0, "vocab_size": size}
        fields.labels = [LABEL]
        model = DCNv2(fields, folder)
        model.train()
        # What `fit` would set: its default limit for the norm of all gradients.
        model._max_gradient_norm = 10.0
        rows, labels = task.columns(given.file, "int64")
        together = {name: torch.from_numpy(ids) for name, ids in rows.items()} | {LABEL: torch.from_numpy(labels)}
        parts = {name: each.contiguous().split(given.batch) for name, each in together.items()}
        batches = [dict(zip(parts, each, strict=True)) for each in zip(*parts.values(), strict=True)]
        turns = itertools.cycle(batches)
        dense = sum(w.numel() for name, w in model.named_parameters() if not name.startswith("embedding_layer"))
        task.report(lambda: model.train_step(next(turns)).item(), given, dense)


if __name__ == "__main__":
    main()
