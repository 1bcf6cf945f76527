"""A member in TransformerLens: its bridge around the member's own blocks and weights."""

from __future__ import annotations

import importlib.metadata
import re
from typing import Any

from compfast.config import MemberSpec, ModelConfig
from compfast.config.extras import needed
from compfast.errors import UsageError
from compfast.models.families import family_of
from compfast.models.families.transformer import TransformerFamily
from compfast.models.resolved import known
from compfast.runs.reading import Run

ARCHITECTURE = "CompfastTransformer"  # the name of its entry point

_OLDEST = (4, 3)
_WHO = "export.transformer_lens"
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_tanh": "gelu_new"}
# Of relative ones, which the scores hold, TransformerLens would centre a table that is not there.
_POSITIONS = {"learned": "standard", "relative": "none", "none": "none"}


def transformer_lens(run: Run, member: int, step: int | None = None) -> Any:
    """A member as a `TransformerBridge`; nothing of its weights is folded or centred.

    `step`: a snapshot's weights; None: the newest. It takes token ids and gives the logits of
    `run.model(member)`; hooks have TransformerLens's names, and change what comes behind them.
    Raises UsageError for a member or step that is not there, for one that TransformerLens's
    blocks cannot express, before anything is built, and without transformer_lens 4.3 or newer.
    """
    spec = run.spec(member)
    _check(spec)
    _check_version()
    needed("transformer_lens", _WHO)
    return _bridge(run.model(member, step), spec.model, f"compfast-member-{member}")


def _bridge(network: Any, sizes: ModelConfig, name: str) -> Any:
    """The bridge of a module, which it takes over."""
    sources, factories, configs = (
        needed(f"transformer_lens.{place}", _WHO)
        for place in ("model_bridge.sources", "factories.architecture_adapter_factory", "config")
    )
    from compfast.export.lens_adapter import MemberAdapter
    from compfast.export.lens_network import LensNetwork

    factory = factories.ArchitectureAdapterFactory
    # For where compfast is a folder on the path, or was installed without this entry point.
    factory.discover_entry_points()
    factory.register_adapter(ARCHITECTURE, MemberAdapter)
    laid_out = LensNetwork(network, sizes)
    config = configs.TransformerBridgeConfig(**_config(sizes, laid_out.head.out_features))
    return sources.build_bridge_from_module(
        laid_out, ARCHITECTURE, tl_config=config, model_name=name
    )


def _check(spec: MemberSpec) -> None:
    """Raise UsageError for what TransformerLens's blocks cannot express."""
    model = spec.model
    if type(family_of(model)) is not TransformerFamily:
        raise _refused(spec, f"model.family is {model.family}", "transformer")
    if model.input_width:
        raise _refused(spec, f"model.input_width is {model.input_width}", "0, token ids")
    for name in ("value_path", "value_activation"):
        if getattr(model, name) != "none":
            raise _refused(spec, f"model.{name} is {getattr(model, name)}", "none")


def _check_version() -> None:
    """Raise UsageError for a release whose bridges are made otherwise."""
    try:
        found = importlib.metadata.version("transformer_lens")
    except importlib.metadata.PackageNotFoundError:
        return  # `needed` says so
    if tuple(map(int, re.findall(r"\d+", found)[:2])) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UsageError(
            f"{_WHO} needs transformer_lens {oldest} or newer, and {found} is installed:"
            f" pip install 'transformer_lens>={oldest}'"
        )


def _config(model: ModelConfig, vocabulary: int) -> dict[str, Any]:
    return {
        "d_model": model.d_model,
        "d_head": known(model.d_k),
        "n_layers": model.layers,
        "n_ctx": known(model.max_positions),
        "n_heads": model.heads,
        "d_mlp": known(model.d_ff),
        "d_vocab": vocabulary,
        "d_vocab_out": vocabulary,
        "act_fn": _ACTIVATIONS[model.activation],
        "eps": model.norm_eps,
        "normalization_type": "LN" if model.norm != "none" or model.final_norm else None,
        "positional_embedding_type": _POSITIONS[model.position],
        "attention_dir": "causal" if model.causal else "bidirectional",
        "tie_word_embeddings": model.tied_head,
        "default_prepend_bos": False,
        "tokenizer_prepends_bos": False,
        "device": "cpu",
    }


def _refused(spec: MemberSpec, given: str, taken: str) -> UsageError:
    return UsageError(
        f"TransformerLens's blocks cannot express member {spec.member}: its {given};"
        f" {_WHO} takes {taken}"
    )
