"""The section of networks of transformer blocks.

Sources: [Z24] = Zhang et al. 2024, arXiv 2405.05409; [M24] = Makkuva et al., arXiv 2406.03072;
[S24] = Schug et al., arXiv 2406.05816. A field whose value is `None` is derived by
`compfast.models.families.resolve` (its comment says from what).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from compfast.config.section import (
    ModelSection,
    at_most,
    choice,
    finite,
    positive,
    require,
    require_together,
)

LOSSES = ("cross_entropy", "squared_error")


@dataclass(frozen=True, slots=True)
class ModelConfig(ModelSection):
    """A transformer over tokens, or over vectors."""

    family: str = "transformer"
    layers: int = 2  # blocks
    d_model: int = 32  # width of the residual stream
    heads: int = 1  # of attention
    d_k: int | None = None  # query/key size a head; None: d_model / heads
    d_v: int | None = None  # value size a head; None: d_model / heads
    d_ff: int | None = None  # FFN width; None: 2 d_model
    # Token ids; None: the task's vocabulary rounded up to 16. Of vectors: numbers out a position.
    vocab_size: int | None = None
    max_positions: int | None = None  # positions a sequence at most; None: the task's
    input_width: int | None = None  # numbers a position of vectors, 0: tokens; None: the task's
    asked: int | None = None  # of vectors: last positions with a target; None: the task's
    loss: Literal["cross_entropy", "squared_error"] | None = None  # None: the task's
    # learned: a table of tokens' positions; relative: a bias a head and distance [S24]; auto:
    # learned for tokens, relative for vectors.
    position: Literal["auto", "learned", "none", "relative"] = "auto"
    buckets: int | None = None  # of relative distances; None: max_positions [S24]
    norm: Literal["pre", "post", "none"] = "pre"  # of layers, before each part or behind it [Z24]
    norm_bias: bool = True  # a shift beside each norm's scale
    final_norm: bool | None = None  # None: on for pre-norm, off otherwise
    # linear: the scores themselves; rms_head: scores over their root mean square over heads [S24];
    # none: FFN blocks alone [M24].
    attention: Literal["softmax", "linear", "rms_head", "none"] = "softmax"
    # A hypernetwork's value path [S24]: heads mix the value maps of each pair of positions, and
    # the mixed map's output goes through (none), linear, relu, or relu and a second such layer.
    value_path: Literal["none", "linear", "relu", "deep"] = "none"
    # Of each value before it is mixed; relu is the row "nonlinear value" of [S24], table A1.
    # UNVERIFIED: its text names no function.
    value_activation: Literal["none", "relu"] = "none"
    # Share of attention weights that a training step drops, the same for all heads and sequences:
    # 0 in the text of [S24], 0.1 in what its code runs.
    attention_dropout: float = 0.0
    rms_eps: float = 1e-6  # of rms_head [S24 code]
    activation: Literal["relu", "gelu", "gelu_tanh"] = "gelu"  # gelu is the exact one
    attention_bias: bool = True  # biases of query, key, value and output projections
    ffn_bias: bool = True  # of both layers of the FFN
    head_bias: bool = True  # of the output layer
    tied_head: bool = False  # head weight = token table
    # single: one logit for the second of two tokens, x_n times one vector as x_n's embedding and
    # the logistic loss [M24]; vocabulary: a logit a token.
    logits: Literal["vocabulary", "single"] = "vocabulary"
    causal: bool = True  # a position sees itself and those before it
    norm_eps: float = 1e-5  # [Z24]
    # last: as [Z24]; all: each predicts the next token; masked: where the task's targets say.
    loss_positions: Literal["last", "all", "masked"] = "last"

    shown: ClassVar[Mapping[str, str]] = {
        "norm": "norm {}",
        "d_model": "width {}",
        "layers": "depth {}",
        "heads": "heads {}",
    }

    def _check(self) -> None:
        positive("model", self, "layers", "d_model", "heads", "d_k", "d_v", "d_ff", "vocab_size")
        positive("model", self, "max_positions")
        positive("model", self, "buckets", "asked")
        widths = ("d_model", "heads", "d_k", "d_v", "d_ff", "input_width")
        sizes = (*widths, "vocab_size", "max_positions", "buckets", "asked")
        at_most("model", self, layers=1024, **dict.fromkeys(sizes, 2**24))
        choice(
            "model",
            self,
            norm=("pre", "post", "none"),
            attention=("softmax", "linear", "rms_head", "none"),
            value_path=("none", "linear", "relu", "deep"),
            value_activation=("none", "relu"),
            logits=("vocabulary", "single"),
            activation=("relu", "gelu", "gelu_tanh"),
            loss_positions=("last", "all", "masked"),
        )
        choice("model", self, position=("auto", "learned", "none", "relative"))
        if self.loss is not None:
            choice("model", self, loss=LOSSES)
        finite("model", self, "norm_eps", "rms_eps", "attention_dropout", low=0.0)
        require(
            self.attention_dropout < 1,
            f"model.attention_dropout is {self.attention_dropout}; it must be in [0, 1)",
        )
        require(
            self.input_width is None or self.input_width >= 0,
            f"model.input_width is {self.input_width}; it must be at least 0",
        )
        require_together(
            self.attention != "none"
            or (self.value_path == self.value_activation == "none" and not self.attention_dropout),
            "model.attention is none; model.value_path, model.value_activation and"
            " model.attention_dropout need attention",
        )
        if self.d_k is None or self.d_v is None:
            require_together(
                self.d_model % self.heads == 0,
                f"model.d_model {self.d_model} is not divisible by model.heads {self.heads};"
                " give model.d_k and model.d_v",
            )
