// Every offset and size of a plan is checked once, before anything is allocated from it: whatever
// a kernel reads or writes for an op lies inside the worker's workspace, the member's parameters
// or the packed copies. What the numbers mean is the layout's (compfast/engines/layout.py).
#pragma once

#include "attention_mixed_sizes.h"
#include "checks.h"
#include "plan.h"

namespace compfast {

class OpCheck {
 public:
  OpCheck(const PlanRecord& plan, int32_t index) : plan_(plan), op_(plan.ops[index]), at_(index) {}

  void run() const {
    static constexpr int32_t least[] = {0, 1, 1, 3, 1, 1, 0, 0, 1, 3, 1};
    static constexpr int32_t most[] = {0, 1, 2, 3, 1, 1, 0, 0, 1, 3, 1};
    require(op_.kind >= OP_EMBED && op_.kind <= OP_GENERATED, "there is no such kind");
    require(op_.inputs >= least[op_.kind] && op_.inputs <= most[op_.kind], "so many inputs");
    require(op_.bf16 == 0 || op_.bf16 == 1, "bf16 must be 0 or 1");
    require((op_.kind == OP_LOSS) == (at_ == plan_.op_count - 1), "the loss must be the last");
    if (op_.kind != OP_LOSS) output();
    if (plan_.ragged) ragged();
    if (op_.kind == OP_EMBED) embed();
    if (op_.kind == OP_NORM) norm();
    if (op_.kind == OP_LINEAR) linear();
    if (op_.kind == OP_HEAD_LINEAR) head_linear();
    if (op_.kind == OP_ATTENTION) attention();
    if (op_.kind == OP_LOSS) loss();
    if (op_.kind == OP_CANONICAL) canonical();
    if (op_.kind == OP_VECTORS) vectors();
    if (op_.kind == OP_SELECT) select();
    if (op_.kind == OP_MIXED_ATTENTION) mixed();
    if (op_.kind == OP_GENERATED) generated();
  }

 private:
  void require(bool ok, const char* what) const {
    if (!ok) refuse("op " + std::to_string(at_) + " of the plan: " + what);
  }

  void inside(const char* what, int64_t offset, int64_t length, int64_t size) const {
    if (offset >= 0 && offset <= size && length <= size - offset) return;
    refuse("op " + std::to_string(at_) + " of the plan: " + what + " takes " +
           std::to_string(length) + " floats from " + std::to_string(offset) + " on, of " +
           std::to_string(size));
  }

  // Each row is of one position, and nobody reads those behind it.
  void ragged() const {
    const int32_t k = op_.kind, t = plan_.ports.positions;
    const bool attends = k == OP_ATTENTION || k == OP_MIXED_ATTENTION;
    require(k == OP_EMBED || k == OP_NORM || k == OP_LINEAR || k == OP_LOSS || attends,
            "its kind takes no sequences of their own length");
    require(!attends || (op_.causal == 1 && op_.shared == 0), "a position reads those behind it");
    for (int i = 0; i < op_.inputs; i++) require(op_.in[i].rows == t, "a row a position is needed");
    require(k == OP_LOSS || op_.out.rows == t, "a row a position is needed");
  }

  int64_t rows(const ViewRecord& v) const { return times(plan_.microbatch, v.rows); }

  // Floats from a view's first to the last that is touched, when `columns` of a row are.
  int64_t reach(const ViewRecord& v, int64_t columns) const {
    return times(rows(v) - 1, v.ld) + columns;
  }

  void shape(const ViewRecord& v) const {
    require(v.rows == plan_.ports.asked || v.rows == plan_.ports.positions,
            "a view has rows for the asked positions or all");
    require(v.width >= 1 && v.width <= v.ld && v.ld % 16 == 0, "a view's rows are too narrow");
  }

  void view(const ViewRecord& v, int64_t columns) const {
    shape(v);
    require(v.mode >= GRAD_WRITE && v.mode <= GRAD_NONE, "there is no such mode");
    inside("a value", v.value, reach(v, columns), plan_.workspace_size);
    require((v.mode == GRAD_NONE) == (v.grad < 0), "a gradient has a place, or there is none");
    if (v.mode == GRAD_NONE) return require(op_.kind == OP_LINEAR, "it needs a gradient");
    inside("a gradient", v.grad, reach(v, columns), plan_.workspace_size);
    if (v.mode == GRAD_ZERO_ADD)
      inside("a cleared gradient", v.grad, reach(v, v.ld), plan_.workspace_size);
  }

  // An input of which the op reads as many rows as it has, or the last.
  void input(const ViewRecord& v, int64_t width, int64_t columns) const {
    all_rows(v, width, columns);
    require(v.rows == op_.out.rows || op_.out.rows == 1, "an input has too few rows");
  }

  // An input of which the op reads all rows.
  void all_rows(const ViewRecord& v, int64_t width, int64_t columns) const {
    view(v, columns);
    require(v.width == width, "an input's width is not the op's");
  }

  void output() const {
    shape(op_.out);
    inside("the output", op_.out.value, reach(op_.out, op_.out.ld), plan_.workspace_size);
    if (op_.kind == OP_VECTORS) return;  // nobody's
    inside("its gradient", op_.out.grad, reach(op_.out, op_.out.ld), plan_.workspace_size);
  }

  void parameters(int64_t offset, int64_t length) const {
    inside("a parameter", offset, length, plan_.flat_size);
  }

  void embed() const {
    const Ports& p = plan_.ports;
    require(p.width == 0, "the inputs are vectors");
    require(op_.out.rows == p.positions, "an embedding has a row a position");
    require(op_.first >= 0 && op_.first < p.vocabulary, "first is no token");
    require(op_.weight_ld >= to_pad(op_.out.width), "weight_ld is less than a row");
    parameters(op_.weight, times(p.vocabulary - op_.first, op_.weight_ld));
    require(op_.weight2 >= -1, "weight2 is not an offset");
    if (op_.weight2 >= 0) parameters(op_.weight2, times(p.positions, op_.weight_ld));
  }

  void norm() const {
    const int64_t columns = to_pad(op_.out.width);
    input(op_.in[0], op_.out.width, columns);
    parameters(op_.weight, columns);
    require(op_.bias >= -1, "bias is not an offset");
    if (op_.bias >= 0)
      parameters(op_.bias, columns);
    else
      inside("its spare rows", op_.spare, times(2, columns), plan_.workspace_size);
    inside("what it saves", op_.saved, times(2, rows(op_.out)), plan_.workspace_size);
  }

  // The weight [d_out, d_in] and its packed copies; `columns` of a packed row are read.
  void weight(int64_t columns) const {
    require(op_.d_out >= 1 && op_.d_out <= op_.packed_ld, "packed_ld is too small");
    require(op_.d_in >= 1 && op_.d_in <= op_.weight_ld, "weight_ld is too small");
    require(op_.packed_ld % 16 == 0 && op_.weight_ld % 16 == 0, "a row is no whole vector");
    parameters(op_.weight, times(op_.d_out, op_.weight_ld));
    const int64_t past = columns > op_.packed_ld ? columns - op_.packed_ld : 0;
    inside("a packed weight", op_.packed, times(op_.d_in, op_.packed_ld) + past, plan_.packed_size);
    require(op_.bias >= -1, "bias is not an offset");
    if (op_.bias < 0) return;
    parameters(op_.bias, op_.d_out);
    inside("a packed bias", op_.packed_bias, op_.packed_ld + past, plan_.packed_size);
  }

  void linear() const {
    const ViewRecord& x = op_.in[0];
    require(op_.d_in == x.width && op_.d_out == op_.out.width, "sizes are not the views'");
    input(x, op_.d_in, to_pad(op_.d_in));
    weight(op_.packed_ld);
    if (op_.inputs > 1) input(op_.in[1], op_.d_out, to_pad(op_.d_out));
    activated();
    require(op_.factor >= -1, "factor is not an offset");
    if (op_.factor >= 0)
      inside("a factor", op_.factor, reach(x, to_pad(op_.d_in)), plan_.workspace_size);
    if (op_.bf16) rounded();
  }

  void activated() const {
    require(op_.activation >= 0 && op_.activation <= 3, "there is no such activation");
    if (op_.activation != 0)
      inside("a slope", op_.slope, reach(op_.out, op_.out.ld), plan_.workspace_size);
  }

  // Room for the bfloat16 operands of one product (linear.h).
  void rounded() const {
    const int64_t n = rows(op_.out), widest = op_.d_in > op_.d_out ? op_.d_in : op_.d_out;
    const int64_t along = times(n, (widest + 31) / 32 * 16);
    const int64_t across = times((n + 1) / 2, (int64_t)op_.out.ld + op_.weight_ld);
    const int64_t transposed = times(op_.d_in, op_.packed_ld);
    for (int64_t wanted : {along, across, transposed})
      inside("operands", op_.operands, wanted, plan_.workspace_size);
    inside("a packed weight", op_.packed_back, times((op_.d_out + 1) / 2, op_.weight_ld),
           plan_.packed_size);
  }

  void head_linear() const {
    require(op_.heads >= 1 && op_.head_width >= 1 && op_.d_in >= 1, "sizes must be positive");
    require(op_.bf16 == 0 && op_.out.rows == 1, "one row, in float32");
    const int64_t narrow = times(op_.heads, op_.head_width), wide = times(op_.heads, op_.d_in);
    require(op_.d_out == narrow, "d_out is not heads x head_width");
    require(op_.out.width == (op_.narrow ? narrow : wide), "sizes are not the views'");
    input(op_.in[0], op_.narrow ? wide : narrow, to_pad(op_.in[0].width));
    weight(heads_columns(op_.head_width));
  }

  // Columns up to the end of the last head's last vector.
  int64_t heads_columns(int64_t width) const { return times(op_.heads - 1, width) + to_pad(width); }

  void attention() const {
    const ViewRecord &q = op_.in[0], &k = op_.in[1], &v = op_.in[2];
    require(op_.heads >= 1 && op_.d_k >= 1 && op_.d_v >= 1, "sizes must be positive");
    require(k.rows == plan_.ports.positions && v.rows == plan_.ports.positions,
            "keys for all positions");
    const int64_t d_k = op_.shared ? k.width : op_.d_k, d_v = op_.shared ? k.width : op_.d_v;
    const int64_t all_k = times(op_.heads, d_k), all_v = times(op_.heads, d_v);
    input(q, all_k, heads_columns(d_k));
    all_rows(k, op_.shared ? d_k : all_k, op_.shared ? to_pad(d_k) : heads_columns(d_k));
    all_rows(v, op_.shared ? d_v : all_v, op_.shared ? to_pad(d_v) : heads_columns(d_v));
    require(op_.out.width == all_v, "sizes are not the views'");
    require(!op_.shared || (q.rows == 1 && op_.out.rows == 1), "shared keys are for one row");
    inside("the output", op_.out.value, reach(op_.out, heads_columns(d_v)), plan_.workspace_size);
    inside("its gradient", op_.out.grad, reach(op_.out, heads_columns(d_v)), plan_.workspace_size);
    const int64_t t = plan_.ports.positions;
    const int64_t row = plan_.ragged ? ATTENTION_WHOLE : attention_saved_row(t);
    const int64_t saved = times(op_.heads, row);
    inside("what it saves", op_.saved, times(rows(op_.out), saved), plan_.workspace_size);
  }

  void mixed() const {
    const ViewRecord &q = op_.in[0], &k = op_.in[1], &v = op_.in[2];
    const int64_t t = plan_.ports.positions;
    require(op_.heads >= 1 && op_.d_k >= 1 && op_.d_v >= 1, "sizes must be positive");
    require(k.rows == t && v.rows == t && q.rows == op_.out.rows, "keys for all, queries for its");
    const int64_t all_k = times(op_.heads, op_.d_k), all_v = times(op_.heads, op_.d_v);
    input(q, all_k, all_k);
    all_rows(k, all_k, all_k);
    all_rows(v, all_v, all_v);
    require(op_.out.width == all_v, "sizes are not the views'");
    require(op_.scores >= MIXED_SOFTMAX && op_.scores <= MIXED_RMS_HEAD, "no such scores");
    require(op_.path >= MIXED_NONE && op_.path <= MIXED_VALUE_DEEP, "no such value path");
    require((op_.path == MIXED_VALUE_DEEP) == (op_.weight2 >= 0), "a deep path has its layer");
    if (op_.weight2 >= 0) {
      require(op_.deep_ld >= op_.d_v && op_.deep_ld % 16 == 0, "deep_ld is too small");
      parameters(op_.weight2, times(all_v, op_.deep_ld));
    }
    require(op_.weight >= -1 && op_.weight2 >= -1 && op_.keep >= -1, "no offset");
    if (op_.weight >= 0) relative(t);
    require(op_.layer >= 0, "layer is negative");
    if (op_.keep >= 0)
      inside("a mask", op_.keep, times(op_.out.rows, to_pad(t)), plan_.packed_size);
  }

  void relative(int64_t t) const {
    const int64_t spread = times(op_.heads, mixed_relative_ld(t));
    require(plan_.buckets != nullptr, "distances have no buckets");
    require(op_.buckets >= 1 && op_.buckets <= op_.weight_ld, "weight_ld is too small");
    const Range used = range_of(plan_.buckets, 2 * t - 1);
    require(used.low >= 0 && used.high < op_.buckets, "a distance's bucket is not there");
    parameters(op_.weight, times(op_.heads, op_.weight_ld));
    inside("a relative bias", op_.packed, spread, plan_.packed_size);
    inside("its gradient", op_.spare, spread, plan_.workspace_size);
  }

  void loss() const {
    const ViewRecord& z = op_.in[0];
    view(z, to_pad(z.width));
    const bool logistic = op_.loss == LOSS_LOGISTIC;
    const Ports& p = plan_.ports;
    require(op_.loss >= LOSS_CROSS_ENTROPY && op_.loss <= LOSS_SQUARED_ERROR,
            "there is no such loss");
    require((op_.loss == LOSS_SQUARED_ERROR) == (p.numbers == 1), "the answers are of its kind");
    require(!logistic || p.vocabulary == 2, "one logit is for two tokens");
    require(z.width == (logistic ? 1 : p.vocabulary), "outputs are not the vocabulary's");
    require(p.masked == 0 || (op_.loss == LOSS_CROSS_ENTROPY && plan_.loss_all == 0),
            "a mask is for the cross-entropy of its own targets");
    require(
        plan_.loss_all ? z.rows == p.positions && p.asked == 1 && p.width == 0 : z.rows == p.asked,
        "its rows are not the targets'");
  }

  void vectors() const {
    require(plan_.ports.width == op_.out.width, "vectors have another width");
    require(op_.out.rows == plan_.ports.positions, "vectors have a row a position");
    require(op_.blank >= -1 && op_.blank < op_.out.rows, "blank is no token");
  }

  void select() const {
    const ViewRecord& x = op_.in[0];
    view(x, x.ld);
    require(x.ld == op_.out.ld && x.mode != GRAD_WRITE, "it adds to rows of its own width");
    require(x.rows >= op_.out.rows, "an input has too few rows");
  }

  void generated() const {
    const ViewRecord& w = op_.in[0];
    require(op_.columns >= 1 && op_.columns <= plan_.ports.width, "columns are not a token's");
    require(op_.query >= 0 && op_.query < plan_.ports.positions, "query is no token");
    require(op_.out.rows == 1 && w.rows == 1, "a sequence has one matrix");
    const int64_t width = times(op_.out.width, op_.columns);
    all_rows(w, width, width - op_.columns + to_pad(op_.columns));
    require(w.mode == GRAD_WRITE, "nobody else reads the matrices");
    activated();
  }

  void canonical() const {
    require(op_.out.width == 1 && plan_.ports.vocabulary == 2, "one logit is for two tokens");
    parameters(op_.weight, 1);
    parameters(op_.weight2, 1);
    parameters(op_.bias, 1);
  }

  const PlanRecord& plan_;
  const OpRecord& op_;
  const int32_t at_;
};

inline void check_plan(const PlanRecord& plan) {
  require_between("ops of the plan", plan.op_count, 1, MOST_WIDTH);
  require_between("positions", plan.ports.positions, 1, MOST_WIDTH);
  require_between("width", plan.ports.width, 0, MOST_WIDTH);
  require_between("asked", plan.ports.asked, 1, plan.ports.positions);
  require_between("numbers", plan.ports.numbers, 0, 1);
  require_between("masked", plan.ports.masked, 0, 1);
  require_between("ragged", plan.ragged, 0, plan.ports.masked);
  require_between("batch", plan.batch, 1, MOST_WIDTH);
  require_between("microbatch", plan.microbatch, 1, plan.batch);
  if (plan.ragged)
    require_between("rows of a microbatch", times(plan.microbatch, plan.ports.positions), 1,
                    INT32_MAX);
  require_between("vocabulary", plan.ports.vocabulary, 1, MOST_WIDTH);
  elements("numbers of a sequence", {plan.ports.positions, std::max(plan.ports.width, 1)});
  elements("targets of a sequence", {plan.ports.asked, plan.ports.vocabulary});
  require_between("flat_size", plan.flat_size, 16, MOST_ELEMENTS);
  require_between("packed_size", plan.packed_size, 0, MOST_ELEMENTS);
  require_between("workspace_size", plan.workspace_size, 0, MOST_ELEMENTS);
  if (plan.flat_size % 16 != 0) refuse("flat_size must be a multiple of 16");
  for (int32_t i = 0; i < plan.op_count; i++) OpCheck(plan, i).run();
  for (int32_t i = 0; i < plan.segment_count; i++) {
    const Segment& s = plan.segments[i];
    require_between("a segment's offset", s.offset, 0, plan.flat_size);
    require_between("a segment's length", s.length, 0, plan.flat_size - s.offset);
    if (s.length % 16 != 0) refuse("a segment's length must be a multiple of 16");
    require_between("a segment's decay", s.decay, 0, DECAYS - 1);
  }
}

}  // namespace compfast
