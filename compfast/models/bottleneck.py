"""The bottleneck as a plain `nn.Module`: a transformer's code generates a small network's weights.

Schug et al., arXiv 2407.12275. See compfast.models.families.bottleneck for what is whose choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compfast.models.bottleneck_config import BottleneckConfig
from compfast.models.resolved import known
from compfast.models.sequences import answers_loss
from compfast.models.transformer import ACTIVATIONS, Head, Stack


class Bottleneck(Stack):
    """Vectors [B, T, width] -> outputs [B, 1, V], head(act(W x)) at the query x [B, d_x].

    W [B, hidden, d_x] = generator(code(h)), h [B, D] the last token of the stack. Where
    model.sees_query is false, the stack reads zeros in place of the query's token.
    """

    def __init__(self, model: BottleneckConfig, device: str = "cpu") -> None:
        super().__init__(model, device)
        self.hidden, self.columns = model.hidden, known(model.query_width)
        self.query, self.sees_query = -1 - known(model.empty), model.sees_query
        bias, weights = model.code_bias, self.hidden * self.columns
        self.code = nn.Linear(model.d_model, model.latent, bias=bias, **self.made)
        self.generator = nn.Linear(model.latent, weights, bias=bias, **self.made)
        self.activation = ACTIVATIONS[model.net_activation]
        self.head = Head(self.hidden, self.outputs, self.made, tied=False, bias=model.head_bias)

    def forward(self, inputs: Tensor) -> Tensor:
        x = inputs[:, self.query, : self.columns]  # [B, d_x]
        units = self.activation(self.applied(inputs, x))[:, None]  # [B, 1, hidden]
        outputs: Tensor = self.head(units, None)
        return outputs

    def applied(self, inputs: Tensor, x: Tensor) -> Tensor:
        """W x [B, hidden] of the network that the sequences `inputs` generate."""
        w = self.generator(self.coded(inputs)).view(-1, self.hidden, self.columns)
        return torch.einsum("bhc,bc->bh", w, x)

    def coded(self, inputs: Tensor) -> Tensor:
        """The latent code [B, latent] of sequences [B, T, width]."""
        if not self.sees_query:
            inputs = inputs.clone()
            inputs[:, self.query] = 0
        code: Tensor = self.code(self.stack(inputs)[:, -1])
        return code

    def loss(self, inputs: Tensor, targets: Tensor, positions: str) -> Tensor:
        return answers_loss(self(inputs), targets)
