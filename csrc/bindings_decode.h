// What greedy decoding is asked, as Python hands it over: no number leads outside of an array.
#pragma once

#include <algorithm>

#include "bindings_records.h"
#include "decode_sizes.h"
#include "plan_checks.h"

namespace compfast {

// A plan with a row a sequence, and the relative distances' buckets over the whole length.
class Decoder {
 public:
  Decoder(const pybind11::dict& plan, int64_t flat_size)
      : plan_(plan_record(plan, ops_, segments_)) {
    const int32_t nearest = 0;
    if (!pybind11::object(plan["buckets"]).is_none()) plan_.buckets = &nearest;
    require_between("positions", plan_.ports.positions, 1, 1);
    require_between("flat_size", plan_.flat_size, flat_size, flat_size);
    check_plan(plan_);
    plan_.buckets = nullptr;
  }

  const PlanRecord& plan() const { return plan_; }

  // Token ids [N, P], lengths [N], buckets [length of the longest sequence] or None.
  PromptRecord prompts(const Array<int32_t>& tokens, const Array<int32_t>& lengths, int64_t max_new,
                       int64_t end, const pybind11::object& buckets) const {
    require_shape("tokens", tokens, {-1, -1});
    require_shape("lengths", lengths, {tokens.shape(0)});
    require_aligned<int32_t>("tokens", tokens);
    require_aligned<int32_t>("lengths", lengths);
    require_between("max_new", max_new, 1, MOST_WIDTH);
    require_between("end", end, -1, plan_.ports.vocabulary - 1);
    PromptRecord p;
    p.tokens = tokens.data();
    p.lengths = lengths.data();
    p.count = tokens.shape(0);
    p.width = tokens.shape(1);
    p.max_new = (int32_t)max_new;
    p.end = (int32_t)end;
    require_values("a token", tokens, plan_.ports.vocabulary);
    int64_t longest = 1;
    for (int64_t i = 0; i < p.count; i++) {
      require_between("a length", p.lengths[i], 1, p.width);
      longest = std::max<int64_t>(longest, p.lengths[i]);
    }
    p.length = longest + max_new - 1;
    require_between("positions of a sequence", p.length, 1, MOST_WIDTH);
    if (!buckets.is_none()) p.buckets = distances(buckets, p.length);
    for (int32_t i = 0; i < plan_.op_count; i++) check(plan_.ops[i], p, i);
    require_room(decode_cache(plan_, p.length) + decode_scratch(plan_, p.length), sizeof(float));
    return p;
  }

 private:
  static const int32_t* distances(const pybind11::object& given, int64_t length) {
    if (!pybind11::isinstance<Array<int32_t>>(given))
      throw pybind11::type_error("buckets is no contiguous array of the right type");
    const auto array = pybind11::reinterpret_borrow<Array<int32_t>>(given);
    require_shape("buckets", array, {length});
    require_aligned<int32_t>("buckets", array);
    return array.data();
  }

  // What an op reads beyond one position.
  void check(const OpRecord& op, const PromptRecord& p, int32_t index) const {
    const std::string which = "op " + std::to_string(index) + " of the plan";
    const bool known = op.kind == OP_EMBED || op.kind == OP_NORM || op.kind == OP_LINEAR ||
                       op.kind == OP_CANONICAL || op.kind == OP_LOSS || attends(op);
    if (!known) refuse(which + ": there is no such kind in decoding");
    if (op.kind == OP_EMBED && op.weight2 >= 0)
      require_between((which + ": the end of its positions").c_str(),
                      op.weight2 + times(p.length, op.weight_ld), 0, plan_.flat_size);
    if (!attends(op)) return;
    if (op.causal != 1 || op.shared != 0) refuse(which + ": it sees what follows");
    if (op.kind == OP_ATTENTION && (op.scores || op.path || op.weight >= 0 || op.weight2 >= 0))
      refuse(which + ": it is generalised attention's");
    if (op.weight < 0) return;
    if (!p.buckets) refuse(which + ": distances have no buckets");
    const Range used = range_of(p.buckets, p.length);
    require_range("a distance's bucket", used, op.buckets);
  }

  std::vector<OpRecord> ops_;
  std::vector<Segment> segments_;
  PlanRecord plan_;
};

}  // namespace compfast
