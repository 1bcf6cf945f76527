// The records of plan.h from the dictionaries that Python hands over.
#pragma once

#include <vector>

#include "bindings_arrays.h"
#include "plan.h"

namespace compfast {

inline ViewRecord view_record(const pybind11::dict& d) {
  ViewRecord v;
  read(d, "value", v.value);
  read(d, "grad", v.grad);
  read(d, "width", v.width);
  read(d, "ld", v.ld);
  read(d, "rows", v.rows);
  read(d, "mode", v.mode);
  return v;
}

inline OpRecord op_record(const pybind11::dict& d) {
  constexpr size_t room = sizeof(OpRecord::in) / sizeof(ViewRecord);
  OpRecord op;
  read(d, "kind", op.kind);
  const auto inputs = value_of<std::vector<pybind11::dict>>(d, "inputs");
  require_between("inputs of an op", (int64_t)inputs.size(), 0, (int64_t)room);
  for (const pybind11::dict& view : inputs) op.in[op.inputs++] = view_record(view);
  if (!pybind11::object(d["output"]).is_none())
    op.out = view_record(value_of<pybind11::dict>(d, "output"));
  read(d, "weight", op.weight);
  read(d, "weight2", op.weight2);
  read(d, "bias", op.bias);
  read(d, "weight_ld", op.weight_ld);
  read(d, "d_out", op.d_out);
  read(d, "d_in", op.d_in);
  read(d, "packed", op.packed);
  read(d, "packed_bias", op.packed_bias);
  read(d, "packed_ld", op.packed_ld);
  read(d, "bf16", op.bf16);
  read(d, "packed_back", op.packed_back);
  read(d, "operands", op.operands);
  read(d, "activation", op.activation);
  read(d, "slope", op.slope);
  read(d, "factor", op.factor);
  read(d, "slope_applied", op.slope_applied);
  read(d, "saved", op.saved);
  read(d, "heads", op.heads);
  read(d, "d_k", op.d_k);
  read(d, "d_v", op.d_v);
  read(d, "causal", op.causal);
  read(d, "shared", op.shared);
  read(d, "head_width", op.head_width);
  read(d, "narrow", op.narrow);
  read(d, "epsilon", op.epsilon);
  read(d, "spare", op.spare);
  read(d, "first", op.first);
  read(d, "loss", op.loss);
  read(d, "scores", op.scores);
  read(d, "path", op.path);
  read(d, "buckets", op.buckets);
  read(d, "deep_ld", op.deep_ld);
  read(d, "layer", op.layer);
  read(d, "keep", op.keep);
  read(d, "drop_below", op.drop_below);
  read(d, "keep_scale", op.keep_scale);
  read(d, "blank", op.blank);
  read(d, "query", op.query);
  read(d, "columns", op.columns);
  return op;
}

// `ops` and `segments` are where the plan's records are to live.
inline PlanRecord plan_record(const pybind11::dict& d, std::vector<OpRecord>& ops,
                              std::vector<Segment>& segments) {
  for (const auto& op : value_of<std::vector<pybind11::dict>>(d, "ops"))
    ops.push_back(op_record(op));
  using Triple = std::tuple<int64_t, int64_t, int32_t>;
  for (const auto& [offset, length, decay] : value_of<std::vector<Triple>>(d, "segments"))
    segments.push_back({offset, length, decay});
  require_between("ops and segments", (int64_t)(ops.size() + segments.size()), 1, MOST_WIDTH);
  PlanRecord p;
  p.ops = ops.data();
  p.op_count = (int32_t)ops.size();
  p.segments = segments.data();
  p.segment_count = (int32_t)segments.size();
  read(d, "flat_size", p.flat_size);
  read(d, "packed_size", p.packed_size);
  read(d, "workspace_size", p.workspace_size);
  read(d, "positions", p.ports.positions);
  read(d, "width", p.ports.width);
  read(d, "asked", p.ports.asked);
  read(d, "numbers", p.ports.numbers);
  read(d, "masked", p.ports.masked);
  read(d, "microbatch", p.microbatch);
  read(d, "batch", p.batch);
  read(d, "vocabulary", p.ports.vocabulary);
  read(d, "loss_all", p.loss_all);
  read(d, "ragged", p.ragged);
  return p;
}

}  // namespace compfast
