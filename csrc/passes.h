// A network's passes over some sequences: forward to its outputs, backward to its gradients.
#pragma once

#include "attention.h"
#include "canonical.h"
#include "cross_entropy.h"
#include "embed.h"
#include "generated.h"
#include "head_linear.h"
#include "linear.h"
#include "logistic.h"
#include "mixed_op.h"
#include "norm.h"
#include "plan.h"
#include "profile.h"
#include "rows.h"
#include "squared_error.h"

namespace {

using namespace compfast;

// Heads that share keys and values are the query rows of one head that sees everything.
inline AttentionShape attention_shape(const OpRecord& op, long t_q, long t) {
  const float scale = (float)(1.0 / __builtin_sqrt((double)op.d_k));
  const long d = op.in[1].width;
  if (op.shared) return {op.heads, t, 1, d, d, false, scale, true, op.in[1].mode != GRAD_WRITE};
  return {t_q, t, op.heads, op.d_k, op.d_v, op.causal != 0, scale};
}

// Stride of query rows: heads that share keys stand side by side.
inline long query_ld(const OpRecord& op, const ViewRecord& view) {
  return op.shared ? op.in[1].width : view.ld;
}

// Floats that attention saves an output row. Of a ragged batch each sequence chooses its way by its
// own length: there is room for any.
inline long attention_saved(const PlanRecord& plan, const OpRecord& op) {
  return op.heads * (plan.ragged ? ATTENTION_WHOLE : attention_saved_row(op.in[1].rows));
}

// Rows of a buffer that n sequences have together.
inline long rows_in(const Given& batch, long n, long rows) {
  return (long)first_row(batch, n, rows);
}

// `step` < 0: not a training step, nothing is dropped.
inline void pack(const PlanRecord& plan, const Member& member, const Workspace& w, int64_t step) {
  for (int i = 0; i < plan.op_count; i++) {
    const OpRecord& op = plan.ops[i];
    if (op.kind == OP_LINEAR || op.kind == OP_HEAD_LINEAR)
      linear_pack(op, member.params, w.packed, w.values + op.operands);
    else if (op.kind == OP_MIXED_ATTENTION)
      mixed_pack(plan, op, member, step, w.packed);
  }
}

inline void forward_norm(const OpRecord& op, long rows, const float* params, float* values) {
  const Rows x = rows_of(op.in[0], op.out.rows);
  norm_forward(rows, op.out.width, op.epsilon, values + op.in[0].value + x.offset, x.stride,
               params + op.weight, op.bias < 0 ? values + op.spare : params + op.bias,
               values + op.out.value, op.out.ld, values + op.saved);
}

inline void forward_attention(const PlanRecord& plan, const OpRecord& op, long n, float* values,
                              float* scratch, const Given& batch) {
  const ViewRecord &q = op.in[0], &k = op.in[1], &v = op.in[2];
  const long skip = (long)(q.rows - op.out.rows) * q.ld, q_ld = query_ld(op, q);
  const long o_ld = query_ld(op, op.out), saved = attention_saved(plan, op);
  for (long s = 0; s < n; s++) {
    const long t_q = row_count(batch, s, op.out.rows), t = row_count(batch, s, k.rows);
    if (t == 0) continue;
    const long qs = first_row(batch, s, q.rows) * q.ld + skip;
    const long at = first_row(batch, s, k.rows), os = first_row(batch, s, op.out.rows);
    attention_forward(attention_shape(op, t_q, t), values + q.value + qs, q_ld,
                      values + k.value + at * k.ld, k.ld, values + v.value + at * v.ld, v.ld,
                      values + op.out.value + os * op.out.ld, o_ld, values + op.saved + os * saved,
                      scratch);
  }
}

inline void forward_embed(const PlanRecord& plan, const OpRecord& op, long n, const float* params,
                          float* values, const Given& batch) {
  const long t = plan.ports.positions;
  for (long s = 0; s < n; s++)
    embed_forward(1, row_count(batch, s, t), op.out.width, op.out.ld, op.weight_ld, op.first,
                  batch.tokens + s * t, params + op.weight,
                  op.weight2 < 0 ? nullptr : params + op.weight2,
                  values + op.out.value + first_row(batch, s, t) * op.out.ld);
}

inline void backward_embed(const PlanRecord& plan, const OpRecord& op, long n, const float* values,
                           float* gradient, const Given& batch) {
  const long t = plan.ports.positions;
  for (long s = 0; s < n; s++)
    embed_backward(1, row_count(batch, s, t), op.out.width, op.out.ld, op.weight_ld, op.first,
                   batch.tokens + s * t, values + op.out.grad + first_row(batch, s, t) * op.out.ld,
                   gradient + op.weight, op.weight2 < 0 ? nullptr : gradient + op.weight2);
}

// n sequences; fills every value buffer up to the outputs. Of a ragged batch (whose ops are those
// of causal networks under a mask) it fills the rows up to each sequence's last target, one
// sequence behind the other.
inline void forward(const PlanRecord& plan, long n, const float* params, const Workspace& w,
                    const Given& batch) {
  const int32_t* tokens = batch.tokens;
  for (int i = 0; i < plan.op_count; i++) {
    const OpRecord& op = plan.ops[i];
    const int64_t begun = begin(w.profile);
    const long rows = rows_in(batch, n, op.out.rows);
    if (op.kind == OP_EMBED)
      forward_embed(plan, op, n, params, w.values, batch);
    else if (op.kind == OP_VECTORS)
      vectors_forward(op, n, batch.vectors, w.values);
    else if (op.kind == OP_SELECT)
      select_forward(op, n, w.values);
    else if (op.kind == OP_NORM)
      forward_norm(op, rows, params, w.values);
    else if (op.kind == OP_LINEAR)
      linear_forward(op, rows, w.packed, w.values);
    else if (op.kind == OP_HEAD_LINEAR)
      head_linear_forward(op, n, params, w.packed, w.values, w.scratch);
    else if (op.kind == OP_ATTENTION)
      forward_attention(plan, op, n, w.values, w.scratch, batch);
    else if (op.kind == OP_MIXED_ATTENTION)
      mixed_op_forward(op, n, params, w.packed, w.values, w.scratch, batch);
    else if (op.kind == OP_GENERATED)
      generated_forward(op, plan.ports, n, batch.vectors, w.values, w.scratch);
    else if (op.kind == OP_CANONICAL)
      canonical_forward(op, n, plan.ports.positions, tokens, params, w.values);
    end(w.profile, &Profile::forward, i, begun);
  }
}

// Of the largest of a row of outputs the first; of a single logit whether it is above 0.
inline int32_t likeliest(const OpRecord& loss, const float* row, int32_t vocabulary) {
  if (loss.loss == LOSS_LOGISTIC) return row[0] > 0.0f;
  int32_t top = 0;
  for (int32_t j = 1; j < vocabulary; j++)
    if (row[j] > row[top]) top = j;
  return top;
}

// Numbers that the mean over the losses of one sequence is taken of.
inline int64_t terms(const PlanRecord& plan) {
  const OpRecord& op = plan.ops[plan.op_count - 1];
  return (int64_t)op.in[0].rows * (op.loss == LOSS_SQUARED_ERROR ? op.in[0].width : 1);
}

// The target of row i of sequence s.
inline int32_t target_of(const PlanRecord& plan, const Given& batch, long s, long i, long rows) {
  if (!plan.loss_all || i == rows - 1)
    return batch.targets[plan.loss_all ? s : s * plan.ports.asked + i];
  return batch.tokens[s * plan.ports.positions + i + 1];
}

// Rows over those of sequence s that have a target: what each of these weighs.
inline float row_weight(const PlanRecord& plan, const Given& batch, long s, long rows) {
  if (!plan.ports.masked) return 1.0f;
  long asked = 0;
  for (long i = 0; i < rows; i++) asked += batch.targets[s * rows + i] >= 0;
  return asked ? (float)rows / (float)asked : 0.0f;
}

// Loss summed over rows; the gradient of the mean over the whole batch goes to the outputs.
inline double loss_backward(const PlanRecord& plan, const OpRecord& op, long n, const Workspace& w,
                            const Given& batch, float inverse_count) {
  const ViewRecord& z = op.in[0];
  double sum = 0;
  for (long s = 0; s < n; s++) {
    const float weight = row_weight(plan, batch, s, z.rows);
    const long first = first_row(batch, s, z.rows), rows = row_count(batch, s, z.rows);
    for (long i = 0; i < rows; i++) {
      const long row = first + i;
      const float* outputs = w.values + z.value + row * z.ld;
      float* gradient = w.values + z.grad + row * z.ld;
      if (op.loss == LOSS_SQUARED_ERROR) {
        const float* answers = batch.answers + row * z.width;
        sum += squared_error(z.width, outputs, answers, inverse_count, gradient);
        continue;
      }
      const int32_t target = target_of(plan, batch, s, i, z.rows);
      if (op.loss == LOSS_LOGISTIC)
        sum += logistic_loss(z.ld, outputs[0], target, inverse_count, gradient);
      else if (target < 0)
        std::memset(gradient, 0, z.ld * sizeof(float));
      else
        sum += weight * cross_entropy(plan.ports.vocabulary, outputs, target,
                                      inverse_count * weight, gradient);
    }
  }
  return sum;
}

inline void backward_norm(const OpRecord& op, long rows, const float* params, float* values,
                          float* gradient) {
  const ViewRecord& in = op.in[0];
  const Rows x = rows_of(in, op.out.rows);
  norm_backward(rows, op.out.width, values + in.value + x.offset, x.stride, params + op.weight,
                values + op.out.grad, op.out.ld, values + op.saved, values + in.grad + x.offset,
                x.stride, in.mode != GRAD_WRITE, gradient + op.weight,
                op.bias < 0 ? values + op.spare + to_pad(op.out.width) : gradient + op.bias);
}

inline void backward_attention(const PlanRecord& plan, const OpRecord& op, long n, float* values,
                               float* scratch, const Given& batch) {
  const ViewRecord &q = op.in[0], &k = op.in[1], &v = op.in[2];
  const long skip = (long)(q.rows - op.out.rows) * q.ld, saved = attention_saved(plan, op);
  const long q_ld = query_ld(op, q), o_ld = query_ld(op, op.out);
  for (long s = 0; s < n; s++) {
    const long t_q = row_count(batch, s, op.out.rows), t = row_count(batch, s, k.rows);
    if (t == 0) continue;
    const long at = first_row(batch, s, k.rows), row = first_row(batch, s, op.out.rows);
    const long qs = first_row(batch, s, q.rows) * q.ld + skip, ks = at * k.ld, vs = at * v.ld;
    const long os = row * op.out.ld;
    attention_backward(attention_shape(op, t_q, t), values + q.value + qs, q_ld,
                       values + k.value + ks, k.ld, values + v.value + vs, v.ld,
                       values + op.out.value + os, values + op.out.grad + os, o_ld,
                       values + op.saved + row * saved, values + q.grad + qs, q_ld,
                       values + k.grad + ks, k.ld, values + v.grad + vs, v.ld, scratch);
  }
}

inline void clear_gradients(const OpRecord& op, long n, float* values, const Given& batch) {
  for (int i = 0; i < op.inputs; i++)
    if (op.in[i].mode == GRAD_ZERO_ADD)
      std::memset(values + op.in[i].grad, 0,
                  rows_in(batch, n, op.in[i].rows) * op.in[i].ld * sizeof(float));
}

inline double backward(const PlanRecord& plan, long n, const float* params, const Workspace& w,
                       float* gradient, const Given& batch, float inverse_count) {
  const int32_t* tokens = batch.tokens;
  double loss = 0;
  for (int i = plan.op_count - 1; i >= 0; i--) {
    const OpRecord& op = plan.ops[i];
    const int64_t begun = begin(w.profile);
    clear_gradients(op, n, w.values, batch);
    const long rows = rows_in(batch, n, op.out.rows);
    if (op.kind == OP_LOSS) {
      loss = loss_backward(plan, op, n, w, batch, inverse_count);
    } else if (op.kind == OP_LINEAR) {
      linear_backward(op, rows, params, w.packed, w.values, gradient);
      if (op.inputs > 1) residual_backward(op, rows, w.values);
    } else if (op.kind == OP_HEAD_LINEAR) {
      head_linear_backward(op, n, params, w.packed, w.values, gradient, w.scratch);
    } else if (op.kind == OP_NORM) {
      backward_norm(op, rows, params, w.values, gradient);
    } else if (op.kind == OP_ATTENTION) {
      backward_attention(plan, op, n, w.values, w.scratch, batch);
    } else if (op.kind == OP_MIXED_ATTENTION) {
      mixed_op_backward(plan, op, n, params, w.packed, w.values, gradient, w.scratch, batch);
    } else if (op.kind == OP_EMBED) {
      backward_embed(plan, op, n, w.values, gradient, batch);
    } else if (op.kind == OP_SELECT) {
      select_backward(op, n, w.values);
    } else if (op.kind == OP_GENERATED) {
      generated_backward(op, plan.ports, n, batch.vectors, w.values, w.scratch);
    } else if (op.kind == OP_CANONICAL) {
      canonical_backward(op, n, plan.ports.positions, tokens, params, w.values, gradient);
    }
    end(w.profile, &Profile::backward, i, begun);
  }
  return loss;
}

}  // namespace
