// One member's training steps by one team: parameters, gradients of activations and all that lies
// between stay on chip; moments, the gradient vector and the parameters that do not fit beside them
// (network.h) in the member's own rows of device memory (on a GPU: its second cache).
#pragma once

#include "../plan.h"
#include "../tasks/anchor.h"
#include "attention.h"

namespace compfast {
namespace cuda {

constexpr uint8_t RUNS = 0, DIVERGED = 2;  // compfast/engines/base.py

// Batches of steps [first, first + steps) that the host drew (compfast/engines/host_batches.py).
struct Given {
  const int32_t* tokens = nullptr;   // [slots, steps, batch, T]; null: the kernel draws
  const int32_t* targets = nullptr;  // [slots, steps, batch]
  int64_t first = 0, steps = 0;
};

// What members share. Pointers are the device's where the team is.
struct Course {
  AnchorStream stream;
  Given given;
  Optimizer optimizer;
  const uint8_t* decay_columns = nullptr;  // [P]: by which of its member's decays a weight decays
  int32_t batch = 0;
  float epsilon = 0;  // of the norms
};

// One member's rows.
struct Life {
  float *m, *v, *gradient;    // [P]; the gradient starts as zero and is left as zero
  int32_t *tokens, *targets;  // [batch, T], [batch]
  uint64_t seed;
  int64_t slot;                // of what the host drew: members of one seed share theirs
  const double* weight_decay;  // [DECAYS]
  double lr, clip;
};

// What the optimiser needs of a step, and what the step found; in the chip's last CONTROL floats.
struct Control {
  float clip, step_size, correction, beta1, rest1, beta2, rest2, eps, momentum;
  float keep[DECAYS];  // what is left of a weight, by its decay's column
  float loss, norm;
  int32_t finite;
};
static_assert(sizeof(Control) <= CONTROL * sizeof(float), "room for the step's numbers");

template <class N, int S, int KEPT>
struct Resident {
  using B = Buffers<N, S>;
  using C = Chip<KEPT>;
  static constexpr Places P = places<N>();
  static constexpr int AT = buffers_begin(KEPT), HEADS = N::H * N::KEYS;

  // a buffer with a row a token, of one row a sequence, and the last token's rows of the first
  COMPFAST_DEVICE static constexpr Rows rows(int buffer, int width) { return {AT + buffer, width}; }
  COMPFAST_DEVICE static constexpr Rows last(int buffer, int width) {
    return {AT + buffer + (N::T - 1) * width, N::T * width};
  }

  // What lies behind a layer's attention: O -> S = X + O Wo^T -> Y = S + ffn(norm(S)).
  struct Behind {
    Rows x, o, s, n, u, slope, y;
    int stats;
  };
  COMPFAST_DEVICE static constexpr Behind behind_first() {
    return {rows(B::x0, N::D), rows(B::o, N::D),      rows(B::s, N::D),  rows(B::n, N::D),
            rows(B::u, N::FF), rows(B::slope, N::FF), rows(B::x1, N::D), AT + B::stats2};
  }
  COMPFAST_DEVICE static constexpr Behind behind_last() {
    return {last(B::x1, N::D),  rows(B::ob, N::D),       rows(B::sb, N::D), rows(B::nb, N::D),
            rows(B::ub, N::FF), rows(B::slope_b, N::FF), rows(B::x2, N::D), AT + B::stats2b};
  }

  template <class Team>
  COMPFAST_DEVICE static void behind(const Team& team, C c, int n, const LayerPlaces& l,
                                     const Behind& b, float epsilon) {
    constexpr int D = N::D, FF = N::FF;
    linear<D, D, Finish::RESIDUAL>(team, c, n, b.o, l.wo, l.bo, b.s, b.x);
    norm<D>(team, c, n, b.s, l.scale2, l.shift2, b.n, b.stats, epsilon);
    linear<D, FF, Finish::GELU>(team, c, n, b.n, l.wu, l.bu, b.u, b.slope);
    linear<FF, D, Finish::RESIDUAL>(team, c, n, b.u, l.wd, l.bd, b.y, b.s);
  }

  // dy, the gradient of Y, becomes that of S; O, N and the slope become their own gradients.
  template <class Team>
  COMPFAST_DEVICE static void behind_gradient(const Team& team, C c, int n, const LayerPlaces& l,
                                              const Behind& b, Rows dy, float* g) {
    constexpr int D = N::D, FF = N::FF;
    constexpr Rows none{0, 0};
    const Rows du = b.slope, dn = b.n, d_o = b.o;
    weight_gradient<FF, D>(team, c, n, dy, b.u, g + l.wd, g + l.bd);
    input_gradient<FF, D, false, true>(team, c, n, dy, l.wd, du, b.slope);
    weight_gradient<D, FF>(team, c, n, du, b.n, g + l.wu, g + l.bu);
    input_gradient<D, FF, false, false>(team, c, n, du, l.wu, dn, none);
    norm_gradient<D, true>(team, c, n, dn, b.s, l.scale2, b.stats, dy, g + l.scale2, g + l.shift2);
    weight_gradient<D, D>(team, c, n, dy, b.o, g + l.wo, g + l.bo);
    input_gradient<D, D, false, false>(team, c, n, dy, l.wo, d_o, none);
  }

  template <class Team>
  COMPFAST_DEVICE static void forward(const Team& team, C c, int sequences, const int32_t* tokens,
                                      float epsilon) {
    constexpr int D = N::D;
    constexpr Rows none{0, 0};
    const int n = sequences * N::T;
    constexpr LayerPlaces a = P.layer[0], b = P.layer[1];
    const Rows normed = rows(B::n, D);
    embed<N>(team, c, n, tokens, P.token, P.position, rows(B::x0, D));
    norm<D>(team, c, n, rows(B::x0, D), a.scale1, a.shift1, normed, AT + B::stats1, epsilon);
    linear<D, 3 * D, Finish::PLAIN>(team, c, n, normed, a.wq, a.bq, rows(B::qkv, 3 * D), none);
    attention<N, N::T>(team, c, sequences, rows(B::qkv, 3 * D), rows(B::qkv + D, 3 * D),
                       rows(B::qkv + 2 * D, 3 * D), rows(B::p, HEADS), rows(B::o, D));
    behind(team, c, n, a, behind_first(), epsilon);

    norm<D>(team, c, n, rows(B::x1, D), b.scale1, b.shift1, normed, AT + B::stats1b, epsilon);
    linear<D, D, Finish::PLAIN>(team, c, sequences, last(B::n, D), b.wq, b.bq, rows(B::qb, D),
                                none);
    linear<D, 2 * D, Finish::PLAIN>(team, c, n, normed, b.wk, b.bk, rows(B::kv, 2 * D), none);
    attention<N, 1>(team, c, sequences, rows(B::qb, D), rows(B::kv, 2 * D), rows(B::kv + D, 2 * D),
                    rows(B::pb, HEADS), rows(B::ob, D));
    behind(team, c, sequences, b, behind_last(), epsilon);
    norm<D>(team, c, sequences, rows(B::x2, D), P.scale, P.shift, rows(B::nf, D), AT + B::stats_f,
            epsilon);
    linear<D, N::V, Finish::PLAIN>(team, c, sequences, rows(B::nf, D), P.wh, P.bh, rows(B::z, N::V),
                                   none);
  }

  // Adds the microbatch's gradient to g [P]; z holds the gradient of the logits.
  template <class Team>
  COMPFAST_DEVICE static void backward(const Team& team, C c, int sequences, const int32_t* tokens,
                                       float* g) {
    constexpr int D = N::D;
    constexpr Rows none{0, 0};
    const int n = sequences * N::T;
    constexpr LayerPlaces a = P.layer[0], b = P.layer[1];
    const Rows dz = rows(B::z, N::V), nf = rows(B::nf, D), dxb = rows(B::x2, D);
    const Rows normed = rows(B::n, D), dx = rows(B::x1, D), ds = rows(B::ds, HEADS);
    weight_gradient<D, N::V>(team, c, sequences, dz, nf, g + P.wh, g + P.bh);
    input_gradient<D, N::V, false, false>(team, c, sequences, dz, P.wh, nf, none);
    norm_gradient<D, false>(team, c, sequences, nf, rows(B::x2, D), P.scale, AT + B::stats_f, dxb,
                            g + P.scale, g + P.shift);

    behind_gradient(team, c, sequences, b, behind_last(), dxb, g);
    const Rows dqb = rows(B::dqb, D), dkv = rows(B::dkv, 2 * D), dv = rows(B::dkv + D, 2 * D);
    attention_gradient<N, 1>(team, c, sequences, rows(B::qb, D), rows(B::kv, 2 * D),
                             rows(B::kv + D, 2 * D), rows(B::pb, HEADS), rows(B::ob, D), ds, dqb,
                             dkv, dv);
    weight_gradient<D, D>(team, c, sequences, dqb, last(B::n, D), g + b.wq, g + b.bq);
    weight_gradient<D, 2 * D>(team, c, n, dkv, normed, g + b.wk, g + b.bk);
    input_gradient<D, 2 * D, false, false>(team, c, n, dkv, b.wk, normed, none);
    input_gradient<D, D, true, false>(team, c, sequences, dqb, b.wq, last(B::n, D), none);
    norm_gradient<D, false>(team, c, n, normed, rows(B::x1, D), b.scale1, AT + B::stats1b, dx,
                            g + b.scale1, g + b.shift1);
    const Rows asked = last(B::x1, D);
    team.each(sequences * D, [=](int i) { c[asked(i / D) + i % D] += c[dxb(i / D) + i % D]; });

    // Keys and values took the place of the first FFN: once more, with the same bits.
    constexpr Behind first = behind_first();
    normalise<D>(team, c, n, first.s, a.scale2, a.shift2, first.n, first.stats);
    linear<D, N::FF, Finish::GELU>(team, c, n, first.n, a.wu, a.bu, first.u, first.slope);
    behind_gradient(team, c, n, a, first, dx, g);
    const Rows dqkv = rows(B::dqkv, 3 * D);
    attention_gradient<N, N::T>(team, c, sequences, rows(B::qkv, 3 * D), rows(B::qkv + D, 3 * D),
                                rows(B::qkv + 2 * D, 3 * D), rows(B::p, HEADS), rows(B::o, D), ds,
                                dqkv, rows(B::dqkv + D, 3 * D), rows(B::dqkv + 2 * D, 3 * D));
    normalise<D>(team, c, n, rows(B::x0, D), a.scale1, a.shift1, normed, AT + B::stats1);
    weight_gradient<D, 3 * D>(team, c, n, dqkv, normed, g + a.wq, g + a.bq);
    input_gradient<D, 3 * D, false, false>(team, c, n, dqkv, a.wq, normed, none);
    norm_gradient<D, true>(team, c, n, normed, rows(B::x0, D), a.scale1, AT + B::stats1, dx,
                           g + a.scale1, g + a.shift1);
    embed_gradient<N>(team, c, n, tokens, dx, g + P.token, g + P.position);
  }

  COMPFAST_DEVICE static Control& control(C c) {
    // The last CONTROL floats are not mixed among each other: Chip::place keeps blocks of 32.
    return *reinterpret_cast<Control*>(c.base + (chip_bytes<N, S>(KEPT) / 4 - CONTROL));
  }

  // c.row is the member's row of parameters.
  template <class Team>
  COMPFAST_DEVICE static void load(const Team& team, C c) {
    team.each(KEPT, [=](int i) { c[i] = c.row[i]; });
  }

  template <class Team>
  COMPFAST_DEVICE static void save(const Team& team, C c) {
    team.each(KEPT, [=](int i) { c.row[i] = c[i]; });
  }

  // Mean loss of the batch into control().loss, its gradient onto g.
  template <class Team>
  COMPFAST_DEVICE static void gradient(const Team& team, C c, int batch, const int32_t* tokens,
                                       const int32_t* targets, float epsilon, float* g) {
    team.each(1, [=](int) { control(c).loss = 0; });
    const float share = 1.0f / (float)batch;
    for (int first = 0; first < batch; first += S) {
      const int count = batch - first < S ? batch - first : S;
      const int32_t* rows = tokens + first * N::T;
      forward(team, c, count, rows, epsilon);
      cross_entropy<N>(team, c, count, targets + first, AT + B::z, AT + B::loss, share);
      team.each(1, [=](int) {
        for (int s = 0; s < count; s++) control(c).loss += c[AT + B::loss + s] * share;
      });
      backward(team, c, count, rows, g);
    }
  }

  // One optimiser step from the gradient g, which is zero afterwards.
  template <class Team>
  COMPFAST_DEVICE static void update(const Team& team, C c, const Course& course, const Life& life,
                                     int64_t step) {
    float *g = life.gradient, *m = life.m, *v = life.v;
    constexpr int partial = AT + B::size;
    team.each(LANES, [=](int lane) {
      float sum = 0;
      COMPFAST_UNROLL(4)
      for (int i = lane; i < P.size; i += LANES) sum = fmaf(g[i], g[i], sum);
      c[partial + lane] = sum;
    });
    team.each(1, [all = &course, life, step, c](int) {
      float sum = 0;
      COMPFAST_UNROLL(4)
      for (int lane = 0; lane < LANES; lane++) sum += c[partial + lane];
      Control& a = control(c);
      const Optimizer& o = all->optimizer;
      a.norm = sqrtf(sum);
      a.finite = a.loss - a.loss == 0.0f && a.norm - a.norm == 0.0f;
      const double lr = (double)(float)(life.lr * o.scale[step] + o.offset[step]);
      const double scale = life.clip > 0 ? life.clip / ((double)a.norm + 1e-6) : 1.0;
      a.clip = (float)(scale < 1.0 ? scale : 1.0);
      for (int i = 0; i < DECAYS; i++)
        a.keep[i] = (float)(1.0 - lr * (life.weight_decay[i] * o.decay[step]));
      const bool sgd = o.kind == OPTIMIZER_SGD;
      a.step_size = (float)(sgd ? lr : lr / o.correction1[step]);
      a.correction = (float)(1.0 / sqrt(o.correction2[step]));
      a.beta1 = (float)o.beta1, a.rest1 = (float)(1.0 - o.beta1);
      a.beta2 = (float)o.beta2, a.rest2 = (float)(1.0 - o.beta2);
      a.eps = (float)o.eps, a.momentum = (float)o.momentum;
    });
    const Control a = control(c);
    if (course.optimizer.kind == OPTIMIZER_SGD) {  // csrc/sgd.h
      const bool nesterov = course.optimizer.nesterov != 0;
      move(team, c, course.decay_columns, g, [=](int i, float grad, float kept) {
        if (a.momentum != 0.0f) {
          const float buffer = m[i] = fmaf(a.momentum, m[i], grad);
          grad = nesterov ? fmaf(a.momentum, buffer, grad) : buffer;
        }
        return fmaf(-a.step_size, grad, kept);
      });
    } else {  // csrc/adamw.h
      move(team, c, course.decay_columns, g, [=](int i, float grad, float kept) {
        m[i] = fmaf(a.beta1, m[i], a.rest1 * grad);
        v[i] = fmaf(a.beta2, v[i], a.rest2 * grad * grad);
        return fmaf(-a.step_size, m[i] / fmaf(sqrtf(v[i]), a.correction, a.eps), kept);
      });
    }
  }

  // Every weight becomes rule(its place, its clipped gradient, what decay leaves of it), unless the
  // step is not finite; the gradient becomes zero.
  template <class Team, class Rule>
  COMPFAST_DEVICE static void move(const Team& team, C c, const uint8_t* columns, float* g,
                                   const Rule& rule) {
    const float clip = control(c).clip;
    const bool finite = control(c).finite != 0;
    team.each(P.size, [=](int i) {
      const float grad = g[i] * clip;
      g[i] = 0;
      if (!finite) return;
      float& w = KEPT == P.size || i < KEPT ? c[i] : c.row[i];
      w = rule(i, grad, w * control(c).keep[columns[i]]);
    });
  }

  // Sequence s of a step: the anchor task's, or the host's.
  COMPFAST_DEVICE static void draw(const Course& course, const Life& life, int64_t step, int s) {
    const Given& given = course.given;
    if (given.tokens == nullptr) {
      anchor_batch(course.stream, life.seed, step, course.batch, s, s + 1, life.tokens,
                   life.targets);
      return;
    }
    const int64_t from = (life.slot * given.steps + step - given.first) * course.batch + s;
    COMPFAST_UNROLL(1)
    for (int t = 0; t < N::T; t++) life.tokens[s * N::T + t] = given.tokens[from * N::T + t];
    life.targets[s] = given.targets[from];
  }

  // Steps [step, until) of the member whose parameters are c.row; loss and norm [.] from absolute
  // step `step` on. Returns the step reached: a loss or norm that is not finite leaves the member
  // as it was before it.
  template <class Team>
  COMPFAST_DEVICE static int64_t train(const Team& team, C c, const Course& course,
                                       const Life& life, int64_t step, int64_t until, float* loss,
                                       float* norm, uint8_t* status) {
    load(team, c);
    const int64_t from = step;
    bool runs = true;
    for (; runs && step < until; step++) {
      // captured by its address: a copy would live in slow memory
      team.each(course.batch, [all = &course, life, step](int s) { draw(*all, life, step, s); });
      gradient(team, c, course.batch, life.tokens, life.targets, course.epsilon, life.gradient);
      update(team, c, course, life, step);
      const Control found = control(c);
      runs = found.finite != 0;
      team.each(1, [=](int) {
        loss[step - from] = found.loss;
        norm[step - from] = found.norm;
        if (!found.finite) *status = DIVERGED;
      });
    }
    save(team, c);
    return runs ? step : step - 1;
  }
};

}  // namespace cuda
}  // namespace compfast
