// One member's step: batch, forward, backward, clip, optimiser, over one worker's memory.
#pragma once

#include "adamw.h"
#include "passes.h"
#include "sgd.h"
#include "tasks/stream.h"

namespace {

using namespace compfast;

// Sequences [begin, end) of half 0 or 1 of a batch: always two halves, each with its own gradient
// vector, so that one worker alone and two workers side by side compute the same bits.
struct Half {
  int64_t begin, end;
};

inline Half half_of(int64_t count, int half) {
  const int64_t middle = (count + 1) / 2;
  return half == 0 ? Half{0, middle} : Half{middle, count};
}

// How many of the next `left` sequences pass together: as many rows as the workspace has, which is
// plan.microbatch sequences of all positions. A function of the batch alone.
inline long microbatch(const PlanRecord& plan, const Workspace& w, int64_t left, Given& part) {
  if (!plan.ragged) return (long)(left < plan.microbatch ? left : plan.microbatch);
  const int64_t room = (int64_t)plan.microbatch * plan.ports.positions;
  part.starts = w.starts;
  return (long)fill_rows(plan.ports, part, left, room, w.starts);
}

// Loss summed over one half's rows; the gradient of the whole batch's mean goes to `gradient`.
inline double half_gradient(const PlanRecord& plan, const Member& member, const Workspace& w,
                            const Given& batch, int64_t count, int half, float* gradient) {
  const int64_t begun = begin(w.profile);
  std::memset(gradient, 0, plan.flat_size * sizeof(float));
  end(w.profile, &Profile::phases, PHASE_CLEAR, begun);
  const float inverse = 1.0f / (float)(count * terms(plan));
  const Half h = half_of(count, half);
  double loss = 0;
  long n = 0;
  for (int64_t s = h.begin; s < h.end; s += n) {
    Given part = from(plan.ports, batch, s);
    n = microbatch(plan, w, h.end - s, part);
    if (rows_in(part, n, plan.ports.positions) == 0) continue;  // none of them asks anything
    forward(plan, n, member.params, w, part);
    loss += backward(plan, n, member.params, w, gradient, part, inverse);
  }
  return loss;
}

inline void add_halves(const PlanRecord& plan, const Workspace& w) {
  for (int64_t i = 0; i < plan.flat_size; i += W)
    store(w.gradient[0] + i, load(w.gradient[0] + i) + load(w.gradient[1] + i));
}

inline float mean_loss(const PlanRecord& plan, int64_t count, const double* sums) {
  return (float)((sums[0] + sums[1]) / (double)(count * terms(plan)));
}

// Mean loss over `count` sequences; its gradient is left in w.gradient[0].
inline float batch_gradient(const PlanRecord& plan, const Member& member, const Workspace& w,
                            const Given& batch, int64_t count) {
  pack(plan, member, w, -1);
  double sums[2];
  for (int half = 0; half < 2; half++)
    sums[half] = half_gradient(plan, member, w, batch, count, half, w.gradient[half]);
  add_halves(plan, w);
  return mean_loss(plan, count, sums);
}

inline bool finite(float x) { return x - x == 0.0f; }

inline void optimise(const PlanRecord& plan, const Optimizer& o, const Member& member,
                     const float* gradient, float norm, int64_t step) {
  const double lr = (double)(float)(member.lr * o.scale[step] + o.offset[step]);
  const double scale = member.clip > 0 ? member.clip / ((double)norm + 1e-6) : 1.0;
  const float clip = (float)(scale < 1.0 ? scale : 1.0);
  const auto keep = [&](const Segment& s) {
    return (float)(1.0 - lr * (member.weight_decay[s.decay] * o.decay[step]));
  };
  if (o.kind == OPTIMIZER_SGD) {
    Sgd a{clip, 1.0f, (float)lr, (float)o.momentum, o.nesterov != 0};
    for (int i = 0; i < plan.segment_count; i++) {
      const Segment& s = plan.segments[i];
      a.keep = keep(s);
      sgd(a, s.length, gradient + s.offset, member.params + s.offset, member.m + s.offset);
    }
    return;
  }
  AdamW a;
  a.clip = clip;
  a.step_size = (float)(lr / o.correction1[step]);
  a.correction = (float)(1.0 / __builtin_sqrt(o.correction2[step]));
  a.beta1 = (float)o.beta1;
  a.rest1 = (float)(1.0 - o.beta1);
  a.beta2 = (float)o.beta2;
  a.rest2 = (float)(1.0 - o.beta2);
  a.eps = (float)o.eps;
  for (int i = 0; i < plan.segment_count; i++) {
    const Segment& s = plan.segments[i];
    a.keep = keep(s);
    adamw(a, s.length, gradient + s.offset, member.params + s.offset, member.m + s.offset,
          member.v + s.offset);
  }
}

// One half of absolute step `step` (0-based): draws its sequences, returns its loss sum.
inline double train_half(const PlanRecord& plan, const TaskStream& stream, const Member& member,
                         const Workspace& w, int64_t step, int half, float* gradient) {
  const Half h = half_of(plan.batch, half);
  const int64_t begun = begin(w.profile);
  draw(stream, member.seed, member.row, step, plan.batch, h.begin, h.end, w.batch);
  end(w.profile, &Profile::phases, PHASE_DRAW, begun);
  return half_gradient(plan, member, w, given(w.batch), plan.batch, half, gradient);
}

// Adds the halves and takes the optimiser step. A loss or norm that is not finite leaves the
// member as it was.
inline StepResult train_update(const PlanRecord& plan, const Optimizer& optimizer,
                               const Member& member, const Workspace& w, const double* sums,
                               int64_t step) {
  const int64_t begun = begin(w.profile);
  add_halves(plan, w);
  StepResult result{};
  result.loss = mean_loss(plan, plan.batch, sums);
  result.grad_norm = gradient_norm(w.gradient[0], plan.flat_size);
  result.finite = finite(result.loss) && finite(result.grad_norm);
  if (result.finite) optimise(plan, optimizer, member, w.gradient[0], result.grad_norm, step);
  end(w.profile, &Profile::phases, PHASE_UPDATE, begun);
  return result;
}

inline void train_pack(const PlanRecord& plan, const Member& member, const Workspace& w,
                       int64_t step) {
  const int64_t begun = begin(w.profile);
  pack(plan, member, w, step);
  end(w.profile, &Profile::phases, PHASE_PACK, begun);
}

// Outputs at the asked positions [count, asked, vocabulary] and their argmax [count, asked]; either
// may be null. A single logit is that of token 1, and token 0 has 0.
inline void member_outputs(const PlanRecord& plan, const Member& member, const Workspace& w,
                           const Given& batch, int64_t count, float* out, int32_t* best) {
  pack(plan, member, w, -1);
  const OpRecord& loss = plan.ops[plan.op_count - 1];
  const ViewRecord& z = loss.in[0];
  const int32_t asked = plan.ports.asked, vocabulary = plan.ports.vocabulary;
  for (int64_t s = 0; s < count; s += plan.microbatch) {
    const long n = (long)(count - s < plan.microbatch ? count - s : plan.microbatch);
    forward(plan, n, member.params, w, from(plan.ports, batch, s));
    for (long i = 0; i < n * asked; i++) {
      const long at = i / asked * z.rows + z.rows - asked + i % asked;
      const float* row = w.values + z.value + at * z.ld;
      const int64_t place = s * asked + i;
      if (best) best[place] = likeliest(loss, row, vocabulary);
      const float both[2] = {0.0f, row[0]};
      if (loss.loss == LOSS_LOGISTIC) row = both;
      if (out) std::memcpy(out + place * vocabulary, row, vocabulary * sizeof(float));
    }
  }
}

}  // namespace
