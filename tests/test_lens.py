"""Members in TransformerLens: its bridge gives the member's numbers, its hooks change them."""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fault_tools
import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, BINARY
from small_runs import small_config

import compfast
from compfast import analysis, export
from compfast.config import ModelConfig, Ports
from compfast.config.settings import from_dict
from compfast.ensembles.groups import member_groups
from compfast.errors import UsageError
from compfast.export import lens
from compfast.models.families import resolve
from compfast.models.transformer import Transformer
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run

ROOT = Path(__file__).parent.parent
SWEEP: Any = (("model.layers", (1, 2)), ("model.norm", ("pre", "post", "none")))
Tensor = torch.Tensor
_ATTENDS: dict[str, tuple[int, dict[str, Any]]] = {
    "relative": (9, {"position": "relative", "heads": 2, "buckets": 5}),
    "no_positions": (9, {"position": "none", "heads": 2}),
    "linear": (9, {"attention": "linear", "heads": 2}),
    "rms_head": (9, {"attention": "rms_head", "heads": 4, "causal": False}),
}
_SINGLE = {name: entry for name, entry in BINARY.items() if "family" not in entry[1]}
MATRIX = {**ARCHITECTURES, **_ATTENDS, **_SINGLE}
QUICK = ("own_head_sizes", "tied_all_post", "no_norm", "no_attention", "single_tied_last")


@pytest.fixture
def lens_package() -> None:
    pytest.importorskip("transformer_lens")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, native_extension: None) -> Run:
    config = small_config(sweep=SWEEP, run={"snapshots": (0,)}, steps=8)
    with fault_tools.fast_disk():
        return compfast.train(config, tmp_path_factory.mktemp("lens") / "run")


def _tokens(run: Run) -> Tensor:
    return torch.from_numpy(exams_of(run.groups)[0].inputs[:7].astype(np.int64))


def _bridged(name: str) -> tuple[Transformer, Any, Tensor]:
    """A network with weights far from where training begins, its bridge and tokens."""
    length, changes = MATRIX[name]
    tokens = 2 if changes.get("logits") == "single" else 110
    sizes = resolve(ModelConfig(**changes), Ports(length, tokens))
    draw = torch.Generator().manual_seed(0)
    network = Transformer(sizes).eval()
    with torch.no_grad():
        for tensor in network.parameters():
            scale = 0.5 if tensor.ndim > 1 else 0.2
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale + (tensor.ndim == 1))
    bridge = lens._bridge(copy.deepcopy(network), sizes, name)
    return network, bridge, torch.randint(tokens, (3, length), generator=draw)


def _close(found: Tensor, own: Tensor) -> None:
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("lens_package")
def test_a_bridge_gives_the_logits_and_the_patterns_of_its_member(run: Run) -> None:
    tokens = _tokens(run)
    for step in (None, 0):
        for told in analysis.attention_weights(run, tokens.numpy(), step):
            for member, patterns in zip(told.members, told.values, strict=True):
                bridge = export.transformer_lens(run, member, step)
                logits, cache = bridge.run_with_cache(tokens)
                _close(logits, run.model(member, step)(tokens))
                for layer in range(patterns.shape[1]):
                    _close(cache["pattern", layer], torch.from_numpy(patterns[:, layer]))
    assert bridge.cfg.model_name == "compfast-member-5"


@pytest.mark.usefixtures("lens_package")
def test_weights_are_the_members_own_and_stay_unfolded(run: Run) -> None:
    own, bridge = run.params(3), export.transformer_lens(run, 3)
    for name, tensor in {
        "embed.token.weight": bridge.W_E,
        "embed.position.weight": bridge.W_pos,
        "blocks.1.attention.key.weight": bridge.W_K[1, 0].T,
        "blocks.1.attention.output.bias": bridge.b_O[1],
        "blocks.1.norm2.weight": bridge.blocks[1].ln2.weight,
        "blocks.0.ffn.up.weight": bridge.W_in[0].T,
        "final_norm.bias": bridge.ln_final.bias,
        "head.weight": bridge.W_U.T,
    }.items():
        assert np.array_equal(own[name], tensor.detach().numpy()), name
    assert sum(t.numel() for t in bridge.parameters()) == sum(a.size for a in own.values())


# name of TransformerLens -> the module's place, and whether what it is given
PLACES = {
    "hook_embed": ("embed.token", False),
    "blocks.1.hook_resid_pre": ("blocks.1", True),
    "blocks.0.attn.hook_q": ("blocks.0.attention.query", False),
    "blocks.1.attn.hook_v": ("blocks.1.attention.value", False),
    "blocks.0.attn.hook_pattern": ("blocks.0.attention.pattern", False),
    "blocks.0.attn.hook_z": ("blocks.0.attention.output", True),
    "blocks.1.hook_attn_out": ("blocks.1.attention", False),
    "blocks.1.hook_mlp_out": ("blocks.1.ffn", False),
    "blocks.0.mlp.hook_pre": ("blocks.0.ffn.up", False),
    "blocks.1.mlp.hook_post": ("blocks.1.ffn.down", True),
    "blocks.1.hook_resid_post": ("blocks.1", False),
    "unembed.hook_in": ("head", True),
}


@pytest.mark.usefixtures("lens_package")
@pytest.mark.parametrize("name", ["own_head_sizes", "tied_all_post", "no_norm"])
def test_a_hook_sees_and_changes_what_the_module_has_at_its_place(name: str) -> None:
    network, bridge, tokens = _bridged(name)
    plain, cache = bridge.run_with_cache(tokens)
    for point, (place, given) in PLACES.items():
        seen: list[Tensor] = []
        with _swapped(network.get_submodule(place), given, seen):
            by_hand = network(tokens)
        (own,) = seen
        _close(cache[point], own.view(cache[point].shape))
        hooked = bridge.run_with_hooks(
            tokens, fwd_hooks=[(point, lambda value, hook: _swap(value))]
        )
        _close(hooked, by_hand)
        assert not torch.allclose(by_hand, plain, atol=1e-3), point
    _close(bridge(tokens), plain)  # hooks are gone


def _swap(value: Tensor) -> Tensor:
    """Half of what another sequence of the batch has there."""
    return value.flip(0) * 0.5


@contextlib.contextmanager
def _swapped(module: torch.nn.Module, given: bool, seen: list[Tensor]) -> Iterator[None]:
    """`_swap` by hand, of what a module is given or of what it gives."""

    def enter(_: Any, arguments: Any) -> Any:
        seen.append(arguments[0])
        return _swap(arguments[0]), *arguments[1:]

    def leave(_: Any, arguments: Any, value: Tensor) -> Tensor:
        seen.append(value)
        return _swap(value)

    put = module.register_forward_pre_hook(enter) if given else module.register_forward_hook(leave)
    with put:
        yield


@pytest.mark.usefixtures("lens_package")
def test_the_middle_of_a_block_is_the_stream_with_what_attention_adds() -> None:
    for name in ("own_head_sizes", "tied_all_post", "no_norm"):
        _, cache = (bridged := _bridged(name))[1].run_with_cache(bridged[2])
        added = cache["blocks.1.hook_resid_pre"] + cache["blocks.1.hook_attn_out"]
        _close(cache["blocks.1.hook_resid_mid"], added)


@pytest.mark.usefixtures("lens_package")
def test_scores_are_those_that_go_into_the_softmax() -> None:
    network, bridge, tokens = _bridged("own_head_sizes")

    def level(scores: Tensor, hook: Any) -> Tensor:
        return torch.where(scores.isinf(), scores, 0.0)

    hooks = [(f"blocks.{layer}.attn.hook_attn_scores", level) for layer in range(2)]
    found = bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    even = torch.ones(11, 11).tril() / torch.arange(1, 12)[:, None]
    blocks: Any = network.blocks
    for block in blocks:
        block.attention.pattern.register_forward_hook(lambda _m, _g, value: even.expand_as(value))
    _close(found, network(tokens))


@pytest.mark.usefixtures("lens_package")
def test_heads_are_told_apart() -> None:
    network, bridge, tokens = _bridged("own_head_sizes")
    values = network.get_parameter("blocks.1.attention.value.weight")  # [4 x 7, 25]
    assert torch.equal(bridge.W_V[1, 2], values[14:21].T)
    assert bridge.W_Q.shape == (2, 4, 25, 5)
    bridge.set_use_attn_result(True)
    logits, cache = bridge.run_with_cache(tokens)
    assert cache["blocks.0.attn.hook_result"].shape == (3, 11, 4, 25)
    added = cache["blocks.0.attn.hook_result"].sum(2) + bridge.b_O[0]
    _close(cache["blocks.0.hook_attn_out"], added)
    bridge.set_use_attn_result(False)
    _close(logits, bridge(tokens))
    with pytest.raises(NotImplementedError, match="use_split_qkv_input"):
        bridge.set_use_split_qkv_input(True)


@pytest.mark.usefixtures("lens_package")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MATRIX]
)
@pytest.mark.filterwarnings("ignore:MemberAdapter does not support")  # to fold, or to centre
def test_every_kind_of_network_gives_its_logits_and_patterns(name: str) -> None:
    network, bridge, tokens = _bridged(name)
    own: list[Tensor] = []
    blocks: Any = network.blocks
    for block in blocks:
        if block.attention is not None:
            block.attention.pattern.register_forward_hook(lambda _m, _g, value: own.append(value))
    outputs = network(tokens)
    logits, cache = bridge.run_with_cache(tokens)
    _close(logits, outputs)
    for layer, pattern in enumerate(own):
        _close(cache["pattern", layer], pattern)
    if not bridge.adapter.supports_compatibility_mode:
        for refused in (bridge.enable_compatibility_mode, bridge.process_weights):
            with pytest.raises((RuntimeError, NotImplementedError), match="not"):
                refused()
        _close(bridge(tokens), outputs)
        return
    bridge.enable_compatibility_mode()  # folds and centres what leaves the network what it is
    found, told = (x.log_softmax(-1) for x in (bridge(tokens), outputs))
    torch.testing.assert_close(found, told, rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("lens_package")
def test_the_rest_of_the_bridge_is_usable() -> None:
    network, bridge, tokens = _bridged("tied_all_post")
    outputs = network(tokens)
    loss = torch.nn.functional.cross_entropy(outputs[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    _close(bridge(tokens, return_type="loss"), loss)
    _, cache = bridge.run_with_cache(tokens)
    _close(bridge(cache["blocks.2.hook_resid_pre"], start_at_layer=2), outputs)
    _close(bridge(tokens, stop_at_layer=2), cache["blocks.2.hook_resid_pre"])
    given = bridge.generate(
        tokens[:1, :2], 3, stop_at_eos=False, do_sample=False, verbose=False, return_type="tokens"
    )
    assert given[0, 2] == network(tokens[:1, :2])[0, -1].argmax()
    with pytest.raises(UsageError, match="has 6 tokens; this model has 5 positions"):
        bridge(torch.zeros((1, 6), dtype=torch.int64))
    with pytest.raises(TypeError, match="attention_mask"):  # no silent nothing
        bridge(tokens, attention_mask=torch.ones_like(tokens))
    _, other, sequences = _bridged("own_head_sizes")
    with pytest.raises(NotImplementedError, match="loss"):
        other(sequences, return_type="loss")  # its answers are no next tokens


@pytest.mark.edge(
    "a member that TransformerLens's blocks cannot express", "refused by name; nothing is built"
)
@pytest.mark.parametrize(
    ("task", "model", "told"),
    [
        ("markov", {"family": "canonical"}, "its model.family is canonical"),
        ("hyperteacher", {"family": "bottleneck"}, "its model.family is bottleneck"),
        ("fuzzy", {"heads": 2}, r"its model.input_width is \d+; .* takes 0, token ids$"),
        ("anchor", {"value_path": "relu"}, "its model.value_path is relu; .* takes none$"),
        ("anchor", {"value_activation": "relu"}, "its model.value_activation is relu"),
    ],
)
def test_what_its_blocks_cannot_express_is_refused(task: str, model: Any, told: str) -> None:
    with pytest.raises(UsageError, match=f"cannot express member 0: {told}"):
        export.transformer_lens(_only_a_spec({"task": {"name": task}, "model": model}), 0)


def _only_a_spec(settings: dict[str, Any]) -> Any:
    """A run that has nothing of which a bridge could be built."""
    ((spec,),) = member_groups(from_dict(settings))

    class Only:
        def spec(self, member: int) -> Any:
            return spec

    return Only()


@pytest.mark.edge("a package of a door that is too old", "one sentence with the line for pip")
def test_an_old_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "3.9.0")
    told = "needs transformer_lens 4.3 or newer, and 3.9.0 is installed: pip install 'transf"
    with pytest.raises(UsageError, match=told):
        export.transformer_lens(_only_a_spec({}), 0)


@pytest.mark.usefixtures("lens_package")
def test_the_adapter_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = "transformer_lens.architectures"
    text = (ROOT / "pyproject.toml").read_text()
    (entries,) = re.findall(rf'\[project.entry-points."{group}"\]\n(.*?)\n\n', text, re.DOTALL)
    info = tmp_path / "installed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: installed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entries.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    module: Any = importlib.import_module("transformer_lens.factories.architecture_adapter_factory")
    factory = module.ArchitectureAdapterFactory
    kept = {n: c for n, c in factory._adapters.items() if n != lens.ARCHITECTURE}
    monkeypatch.setattr(factory, "_adapters", kept)
    monkeypatch.setattr(factory, "_entry_points_discovered", False)
    monkeypatch.setattr(module, "entry_points", _only(info))
    factory.discover_entry_points()
    found = factory._adapters[lens.ARCHITECTURE]
    assert (found.__module__, found.__name__) == ("compfast.export.lens_adapter", "MemberAdapter")


def _only(info: Path) -> Any:
    """`importlib.metadata.entry_points` of one package."""
    found = importlib.metadata.Distribution.at(info).entry_points
    return lambda group: found.select(group=group)


@pytest.mark.usefixtures("lens_package")
def test_the_lines_of_the_documentation_run(run: Run) -> None:
    text = (ROOT / "docs" / "doors.md").read_text()
    ((lines,),) = (re.findall(r"## TransformerLens\n.*?```python\n(.*?)```", text, re.DOTALL),)
    names: dict[str, Any] = {"run": run, "export": export, "tokens": _tokens(run), "torch": torch}
    exec(lines, names)
    assert names["logits"].shape == names["changed"].shape
    assert not torch.allclose(names["logits"], names["changed"])
