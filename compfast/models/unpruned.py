"""Plans for networks that are asked at every position, made from those that training runs."""

from __future__ import annotations

import dataclasses

from compfast.models.plan import Buffer, Op, Plan, View


def every_position(plan: Plan) -> Plan:
    """The same network with all rows in each buffer: `prune_rows` undone, and no loss's mask.

    `plan` has its projections (`absorb` was False).
    """
    chosen = {
        op.output.buffer: op.inputs[0].buffer
        for op in plan.ops
        if op.kind == "select" and op.output is not None
    }

    def view(v: View) -> View:
        return dataclasses.replace(v, buffer=chosen.get(v.buffer, v.buffer))

    ops = [
        dataclasses.replace(op, inputs=tuple(map(view, op.inputs)))
        for op in plan.ops
        if op.kind != "select"
    ]
    last = dataclasses.replace(ops[-1], attributes=ops[-1].attributes | {"masked": False})
    kept = (buffer for buffer in plan.buffers if buffer.name not in chosen)
    buffers = tuple(dataclasses.replace(buffer, rows="all") for buffer in kept)
    return Plan(buffers, (*ops[:-1], last))


def apart(plan: Plan, widths: dict[str, int]) -> Plan:
    """`fuse_projections` undone: each linear op has one weight, of `widths` rows by its name.

    So its ops fit any order of the tensors in memory.
    """
    buffers, ops = list[Buffer](), list[Op]()
    moved: dict[tuple[str, int], str] = {}  # buffer and column -> the buffer of that part
    joined = {b.name: b for b in plan.buffers}
    for op in plan.ops:
        inputs = tuple(
            View(moved[v.buffer, v.column], 0, v.width) if (v.buffer, v.column) in moved else v
            for v in op.inputs
        )
        if op.output is None or len(op.weights) < 2 or op.kind != "linear":
            ops.append(dataclasses.replace(op, inputs=inputs))
            buffers += [] if op.output is None else [joined[op.output.buffer]]
            continue
        column = 0
        for index, name in enumerate(op.weights):
            made, biases = f"{op.output.buffer}.{index}", op.biases[index : index + 1]
            moved[op.output.buffer, column] = made
            whole = View(made, 0, widths[name])
            buffers.append(Buffer(made, widths[name], joined[op.output.buffer].rows))
            ops.append(Op("linear", inputs, whole, (name,), biases, op.attributes))
            column += widths[name]
    return Plan(tuple(buffers), tuple(ops), plan.asked)
