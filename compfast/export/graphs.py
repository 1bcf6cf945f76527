"""A member as an ONNX graph that gives what its module gives: checked before it is kept."""

from __future__ import annotations

import json
import warnings
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compfast.config import MemberSpec
from compfast.config.extras import needed
from compfast.config.paths import user_path
from compfast.errors import CompfastError, UsageError
from compfast.export.card import facts
from compfast.runs.layouts import exams_of
from compfast.runs.reading import Run
from compfast.storage import durable

if TYPE_CHECKING:
    from torch import Tensor

TOLERANCE = 1e-4  # absolute, and relative to outputs above 1
_SEQUENCES = 64  # of the exam, on which both must agree
_WHO = "export.onnx"


def onnx(
    run: Run,
    member: int,
    path: str | PathLike[str],
    step: int | None = None,
    any_length: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a member as an ONNX graph into the file `path`; its path.

    The graph takes `inputs`, token ids int64 [B, T] or vectors float32 [B, T, width], and gives
    `outputs` [B, T, V]. B is free; T is that of the member's exam, or free up to it with
    `any_length`. Its metadata "compfast" are the member's settings, verdict and scores. Before it
    is kept, onnxruntime must give the module's outputs on the exam to 1e-4.

    Raises UsageError for a member or step that is not there, a file that is, and where onnx,
    onnxscript or onnxruntime is missing or the length cannot be free; CompfastError where PyTorch
    finds no graph or the graph gives something else.
    """
    needed("onnxscript", _WHO)
    library, runtime = needed("onnx", _WHO), needed("onnxruntime", _WHO)
    final = user_path(path)
    if final.exists() and not overwrite:
        raise UsageError(f"{final} exists; give another file, or overwrite=True")
    module, described = run.model(member, step), facts(run, member, step)
    inputs = _inputs(run.spec(member))
    proto = _graph(module, inputs, any_length, f"member {member}")
    library.helper.set_model_props(proto, {"compfast": json.dumps(described, allow_nan=False)})
    content: bytes = proto.SerializeToString()
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    if any_length and not isinstance(session.get_inputs()[0].shape[1], str):
        raise UsageError(
            f"the network of member {member} is built for sequences of {inputs.shape[1]} positions;"
            " leave out any_length"
        )
    for given in (inputs, inputs[:1], inputs[:, :-1] if any_length else inputs):
        _check(module, session, given, f"member {member}")
    durable.make_root(final.parent)
    durable.replace_file(final, [content])
    return final


def _inputs(spec: MemberSpec) -> Tensor:
    """Sequences of the member's exam, at least two, as its module takes them."""
    import torch

    given = exams_of([[spec]])[0].inputs[:_SEQUENCES]
    given = np.concatenate([given, given]) if len(given) < 2 else given
    return torch.from_numpy(np.array(given, None if given.dtype.kind == "f" else np.int64))


def _graph(module: Any, inputs: Tensor, any_length: bool, who: str) -> Any:
    import torch

    class Whole(torch.nn.Module):
        """Around the member, since torch.export has own meanings for names such as `code`."""

        def __init__(self) -> None:
            super().__init__()
            self.member = module

        def forward(self, inputs: Tensor) -> Tensor:
            outputs: Tensor = self.member(inputs)
            return outputs

    shapes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if any_length:
        shapes[1] = torch.export.Dim("length", max=inputs.shape[1])
    try:
        with warnings.catch_warnings():
            # PyTorch 2.13 uses what it has deprecated itself.
            warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
            program = torch.onnx.export(
                Whole().eval(),
                (inputs,),
                dynamo=True,
                external_data=False,
                input_names=["inputs"],
                output_names=["outputs"],
                dynamic_shapes=(shapes,),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        why = str(error.__cause__ or error).strip().splitlines()[0]
        raise CompfastError(f"PyTorch makes no ONNX graph of {who}: {why}") from error
    assert program is not None  # with dynamo
    return program.model_proto


def _check(module: Any, session: Any, inputs: Tensor, who: str) -> None:
    import torch

    with torch.inference_mode():
        own = module(inputs).numpy()
    (given,) = session.run(None, {"inputs": inputs.numpy()})
    if given.shape != own.shape or not np.allclose(given, own, TOLERANCE, TOLERANCE):
        raise CompfastError(
            f"the ONNX graph of {who} gives something else than its module in onnxruntime, so that"
            " nothing was written"
        )
