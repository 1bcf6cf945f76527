"""What TransformerLens calls the parts of a member: its adapter, found by the entry point
`CompfastTransformer` of the group `transformer_lens.architectures`.

Imports transformer_lens, so that only `compfast.export.lens` and TransformerLens itself import it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformer_lens.conversion_utils.conversion_steps.base_tensor_conversion import (
    BaseTensorConversion,
)
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    EmbeddingBridge,
    LinearBridge,
    MLPBridge,
    NormalizationBridge,
    PosEmbedBridge,
    UnembeddingBridge,
)

from compfast.config import ModelConfig
from compfast.models.resolved import known

if TYPE_CHECKING:
    from torch import Tensor

_PROJECTIONS = {"q": "query", "k": "key", "v": "value", "o": "output"}
_FFN = {"in": "up", "out": "down"}
_FORKS = ("hook_attn_in", "hook_q_input", "hook_k_input", "hook_v_input")


class MemberAdapter(ArchitectureAdapter):
    """Of a `compfast.export.lens_network.LensNetwork`, whose settings say which parts there are.

    TransformerLens folds and centres weights when it is asked to, and leaves out what would change
    the network's function.
    """

    supports_kv_cache = False  # the network reads whole sequences
    supports_hf_output_attentions = False  # hook_pattern has them

    def prepare_model(self, model: Any) -> None:
        sizes: ModelConfig = model.sizes
        # Answers that stand behind the sequence, or beside it, are no next tokens.
        self.supports_causal_loss = sizes.loss_positions == "all"
        self.supports_fold_ln = sizes.norm == "pre"
        self.supports_center_writing_weights = sizes.norm == "pre" and bool(sizes.final_norm)
        # Folding the values' biases takes weights that sum to 1.
        self.supports_compatibility_mode = sizes.attention in ("softmax", "none")
        self.weight_processing_conversions = self._qkvo_weight_conversions(
            include_biases=sizes.attention_bias
        )
        parts = {"embed": EmbeddingBridge(name="token")}
        if sizes.position == "learned":
            parts["pos_embed"] = PosEmbedBridge(name="position")
        parts["blocks"] = MemberBlockBridge(sizes, self.cfg)
        if sizes.final_norm:
            parts["ln_final"] = _norm("final", self.cfg)
        parts["unembed"] = UnembeddingBridge(name="head")
        self.component_mapping = parts

    def preprocess_weights(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Nothing to do; NotImplementedError where folding would change the network."""
        if not self.supports_compatibility_mode:
            raise NotImplementedError(
                "TransformerLens folds the values' biases as if attention weights summed to 1,"
                " which those of this network do not"
            )
        return state_dict


class MemberBlockBridge(BlockBridge):
    """A block: `attn` and `mlp`, `ln1` and `ln2` before them or behind what they add.

    hook_resid_mid is the stream plus what attention adds, as everywhere in TransformerLens; with
    norms behind, the network reads the next norm's output instead, mlp.hook_in.
    """

    def __init__(self, sizes: ModelConfig, config: Any) -> None:
        attends, parts = sizes.attention != "none", dict[str, Any]()
        if attends:
            parts["attn"] = MemberAttentionBridge(sizes, config)
        parts["mlp"] = MLPBridge(name="ffn", config=config, submodules=_linear(_FFN))
        if sizes.norm != "none":
            parts |= {"ln1": _norm("norm1", config)} if attends else {}
            parts["ln2"] = _norm("norm2", config)
        middle = {"pre": "ln2.hook_in", "post": "ln1.hook_in", "none": "mlp.hook_in"}[sizes.norm]
        super().__init__(
            "layers",
            config=config,
            submodules=parts,
            hook_alias_overrides={"hook_resid_mid": middle},
            mlp_reads_resid_directly=sizes.norm != "pre",
        )
        for name in (*_FORKS, *(() if attends else ("hook_attn_out", "hook_resid_mid"))):
            self.hook_aliases.pop(name)


class MemberAttentionBridge(AttentionBridge):
    """The member's attention with hooks inside: scores as they go into the softmax, the pattern
    as it goes to the values; changing either changes what comes out.

    Heads have d_k in queries and keys and d_v in values, d_head of the bridge's config being d_k.
    """

    supports_split_qkv_fork = False
    supports_attn_result = True

    def __init__(self, sizes: ModelConfig, config: Any) -> None:
        super().__init__(
            "attention", config=config, submodules=_linear(_PROJECTIONS), is_causal=sizes.causal
        )
        self.heads, self._v_head_dim = sizes.heads, known(sizes.d_v)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D], as compfast.models.attention.Attention."""
        own: Any = self.original_component
        x = self.hook_in(x)
        q, k, v = (self._split(project(x)) for project in (self.q, self.k, self.v))
        scores = own.masked(q @ k.transpose(-2, -1) / math.sqrt(own.d_k))
        pattern = self.hook_pattern(own.normalized(self.hook_attn_scores(scores)))
        mixed = (pattern @ v).transpose(1, 2).flatten(2)
        if self.config.use_attn_result:
            z = self._split(self.o.hook_in(mixed)).transpose(1, 2)
            joined = self._compute_per_head_result(z, self.heads, self._v_head_dim)
        else:
            joined = self.o(mixed)
        out: Tensor = self.hook_out(joined)
        return out

    def _setup_qkv_hook_reshaping(self) -> None:
        """In place of TransformerLens's, which takes one size of head from the config."""
        split = _Heads(self.heads)
        for point in (self.q.hook_out, self.k.hook_out, self.v.hook_out, self.o.hook_in):
            point.hook_conversion = split

    def _split(self, x: Tensor) -> Tensor:
        """[B, T, H * size] -> [B, H, T, size]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _Heads(BaseTensorConversion):
    """What hooks see of a projection: [B, T, H * size] as [B, T, H, size]."""

    splits_attention_heads = True

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def handle_conversion(self, input_value: Any, *full_context: Any) -> Any:
        return input_value.unflatten(-1, (self.heads, -1))

    def revert(self, input_value: Any, *full_context: Any) -> Any:
        return input_value.flatten(-2)


def _linear(names: dict[str, str]) -> dict[str, Any]:
    return {name: LinearBridge(name=own) for name, own in names.items()}


def _norm(name: str, config: Any) -> Any:
    """One that gives the module's own numbers where no hook changes them."""
    return NormalizationBridge(name=name, config=config, use_native_layernorm_autograd=True)
