"""Random tasks, and networks that take them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import strategies as st

from compfast.config import ModelConfig, ModelSection, TaskSection
from compfast.models.bottleneck_config import BottleneckConfig
from compfast.models.families.canonical import CanonicalConfig
from compfast.tasks import make_task
from compfast.tasks.affine import AffineConfig
from compfast.tasks.anchor import AnchorConfig, AnchorTask
from compfast.tasks.chain_search import ChainSearchConfig
from compfast.tasks.fuzzy import FuzzyConfig
from compfast.tasks.hyperteacher import HyperteacherConfig
from compfast.tasks.identity import IdentityConfig
from compfast.tasks.markov import MarkovConfig
from compfast.tasks.modular import ModularConfig
from compfast.tasks.scan import ScanConfig
from compfast.tasks.sraven import SravenConfig

VARIANTS = sorted(AnchorTask.variants)


def widths(least: int, most: int) -> st.SearchStrategy[int]:
    """Any width, and often one of whole vectors in every instruction set: it has other kernels."""
    return st.sampled_from((16, 32)) | st.integers(least, most)


@st.composite
def chains(draw: Any, kinds: tuple[str, ...] = ("binary", "switching", "random")) -> MarkovConfig:
    length = draw(st.integers(3, 20))
    kind = draw(st.sampled_from(kinds))
    start = draw(st.sampled_from(("stationary", "uniform")))
    sizes: dict[str, Any] = {"seq_len": length, "start": start}
    if kind == "binary":
        p = draw(st.sampled_from((0.2, 0.5, 1.0)))
        return MarkovConfig(p=p, q=draw(st.sampled_from((0.3, 0.9))), **sizes)
    states = draw(st.integers(3, 5))
    if kind == "switching":
        return MarkovConfig(chain="switching", states=states, p=0.4, **sizes)
    return MarkovConfig(chain="random", states=states, order=draw(st.integers(1, 3)), **sizes)


@st.composite
def searches(draw: Any) -> ChainSearchConfig:
    chains, links = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    named, wrong = draw(st.booleans()), draw(st.booleans())
    return ChainSearchConfig(
        seq_len=1 + named + 2 * chains * (links + wrong),
        chains=chains,
        order=draw(st.integers(1, links)),
        named=named,
        question=draw(st.sampled_from(("any", "end"))),
        wrong_links=wrong,
    )


def tasks() -> st.SearchStrategy[TaskSection]:
    """Any shipped task, of a size that a network of a few steps takes."""
    lengths = st.integers(3, 20)
    fixed = st.sampled_from(("fresh", "fixed"))
    return st.one_of(
        st.builds(AnchorConfig, seq_len=lengths),
        st.sampled_from(VARIANTS).map(lambda name: AnchorConfig(**AnchorTask.variants[name])),
        st.builds(AnchorConfig, seq_len=st.integers(6, 12), data=fixed, fixed_total=st.just(4000)),
        st.builds(IdentityConfig, seq_len=st.integers(4, 12), total=st.just(200)),
        st.builds(
            ModularConfig,
            modulus=st.sampled_from((11, 13)),
            operation=st.sampled_from(("add", "subtract", "multiply", "squares")),
            shuffled=st.booleans(),
        ),
        st.builds(AffineConfig, total=st.just(300)),
        st.builds(
            ScanConfig,
            grammar=st.just("small"),
            split=st.sampled_from(("simple", "length", "primitive")),
            shuffled=st.booleans(),
        ),
        searches(),
        chains(),
    )


def vectors() -> st.SearchStrategy[TaskSection]:
    """Any shipped task of vectors, as small."""
    samples = st.integers(2, 20)
    return st.one_of(
        st.builds(FuzzyConfig, samples=samples, operators=st.sampled_from(("zadeh", "product"))),
        st.builds(SravenConfig, features=st.integers(1, 2), permuted=st.booleans()),
        st.builds(
            HyperteacherConfig,
            samples=samples,
            dim=st.integers(1, 5),
            hidden=st.integers(1, 5),
            codes=st.sampled_from(("continuous", "discrete")),
            form=st.sampled_from(("vanilla", "extra")),
            activation=st.sampled_from(("gelu", "gelu_tanh")),
        ),
    )


@st.composite
def networks(draw: Any) -> tuple[TaskSection, ModelSection]:
    """Any task, and any switch and sizes of a network that takes it."""
    forms = ("vocabulary", "vocabulary", "vocabulary", "single", "canonical", "vectors", "vectors")
    form = draw(st.sampled_from(forms))
    if form == "vectors":
        pair: tuple[TaskSection, ModelSection] = draw(on_vectors())
        return pair
    task = draw(tasks() if form == "vocabulary" else chains(("binary",)))
    length = make_task(task).length + draw(st.integers(0, 3))
    masked, causal = make_task(task).masked, make_task(task).causal
    positions = draw(st.sampled_from(("last", "all")))
    if form == "canonical":
        return task, CanonicalConfig(max_positions=length, loss_positions=positions)
    model = draw(transformers(length, "masked" if masked else positions, form))
    return task, dataclasses.replace(model, causal=True) if causal else model


@st.composite
def on_vectors(draw: Any) -> tuple[TaskSection, ModelSection]:
    task = draw(vectors())
    model = draw(transformers(make_task(task).length, "last", "vocabulary"))
    attention = draw(st.sampled_from(("softmax", "linear", "rms_head")))
    path = draw(st.sampled_from(("none", "linear", "relu", "deep")))
    own = dataclasses.replace(
        model,
        tied_head=False,
        attention=attention,
        value_path=path,
        position=draw(st.sampled_from(("relative", "none"))),
    )
    ports = make_task(task).ports
    wide = ports.asked == 1 and ports.width > ports.vocabulary  # a token holds x beside its answer
    generates = wide and draw(st.integers(0, 2)) == 0
    return task, draw(bottlenecks(own)) if generates else own


@st.composite
def bottlenecks(draw: Any, model: ModelConfig) -> BottleneckConfig:
    """With the transformer `model` before its code."""
    own = dataclasses.asdict(model) | {"family": "bottleneck"}
    return BottleneckConfig(
        **own,
        latent=draw(widths(1, 12)),
        hidden=draw(widths(1, 33)),
        net_activation=draw(st.sampled_from(("relu", "gelu", "gelu_tanh"))),
        code_bias=draw(st.booleans()),
        sees_query=draw(st.booleans()),
    )


@st.composite
def transformers(draw: Any, length: int, positions: Any, logits: Any) -> ModelConfig:
    flag = st.booleans()
    return ModelConfig(
        layers=draw(st.integers(1, 3)),
        d_model=draw(widths(2, 40)),
        heads=draw(st.sampled_from((1, 2, 4))),
        d_k=draw(widths(1, 17)),
        d_v=draw(widths(1, 17)),
        d_ff=draw(widths(1, 65)),
        max_positions=length,
        norm=draw(st.sampled_from(("pre", "post", "none"))),
        norm_bias=draw(flag),
        final_norm=draw(st.sampled_from((None, True, False))),
        attention=draw(st.sampled_from(("softmax", "softmax", "softmax", "none"))),
        activation=draw(st.sampled_from(("relu", "gelu", "gelu_tanh"))),
        causal=draw(flag),
        attention_bias=draw(flag),
        ffn_bias=draw(flag),
        head_bias=draw(flag),
        tied_head=draw(flag),
        logits=logits,
        loss_positions=positions,
    )
