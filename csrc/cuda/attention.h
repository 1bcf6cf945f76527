// Causal attention and its gradient: QUERIES rows a sequence (T, or the last alone) over T keys.
// q: a row a query; k, v: a row a token; heads side by side. p, ds: H * KEYS floats a query.
#pragma once

#include "phases.h"

namespace compfast {
namespace cuda {

// A query and a head, and which of the sequence's keys it sees: the first `seen`.
template <class N, int QUERIES>
struct Asked {
  int query, head, first, seen;
  COMPFAST_DEVICE explicit Asked(int item)
      : query(item / N::H),
        head(item % N::H),
        first(query / QUERIES * N::T),
        seen(query % QUERIES + N::T - QUERIES + 1) {}
  COMPFAST_DEVICE int probability(Rows p) const { return p(query) + head * N::KEYS; }
};

template <int SIZE, class C>
COMPFAST_DEVICE float dot(C c, int a, int b) {
  float sum = 0;
  COMPFAST_UNROLL(2)
  for (int e = 0; e < SIZE; e += 4) {
    const Four x = c.four(a + e), y = c.four(b + e);
    for (int l = 0; l < 4; l++) sum = fmaf(x.at[l], y.at[l], sum);
  }
  return sum;
}

// p = softmax(q k^T / sqrt(HEAD)), zero at keys that are not seen; o = p v.
template <class N, int QUERIES, class Team, class C>
COMPFAST_DEVICE void attention(const Team& team, C c, int sequences, Rows q, Rows k, Rows v, Rows p,
                               Rows o) {
  constexpr int D = N::D, H = N::H, HEAD = N::HEAD, T = N::T;
  using At = Asked<N, QUERIES>;
  const int queries = sequences * QUERIES;
  team.each(queries * H * T, [=](int item) {
    const At a(item / T);
    const int j = item % T, e = a.head * HEAD;
    const float soften = 1.0f / sqrtf((float)HEAD);
    c[a.probability(p) + j] =
        j < a.seen ? dot<HEAD>(c, q(a.query) + e, k(a.first + j) + e) * soften : 0.0f;
  });
  team.each(queries * H, [=](int item) {
    const At a(item);
    const int row = a.probability(p);
    float best = -INFINITY, sum = 0;
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) best = c[row + j] > best ? c[row + j] : best;
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) sum += c[row + j] = expf(c[row + j] - best);
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) c[row + j] = c[row + j] / sum;
  });
  team.each(queries * (D / 4), [=](int item) {
    const int e = item % (D / 4) * 4;
    const At a(item / (D / 4) * H + e / HEAD);
    float mixed[4] = {};
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) {
      const Four value = c.four(v(a.first + j) + e);
      const float weight = c[a.probability(p) + j];
      for (int l = 0; l < 4; l++) mixed[l] = fmaf(weight, value.at[l], mixed[l]);
    }
    for (int l = 0; l < 4; l++) c[o(a.query) + e + l] = mixed[l];
  });
}

// dq, dk and dv from d_o; ds becomes the gradient of the scores.
template <class N, int QUERIES, class Team, class C>
COMPFAST_DEVICE void attention_gradient(const Team& team, C c, int sequences, Rows q, Rows k,
                                        Rows v, Rows p, Rows d_o, Rows ds, Rows dq, Rows dk,
                                        Rows dv) {
  constexpr int D = N::D, H = N::H, HEAD = N::HEAD, T = N::T;
  using At = Asked<N, QUERIES>;
  const int queries = sequences * QUERIES;
  team.each(queries * H * T, [=](int item) {
    const At a(item / T);
    const int j = item % T, e = a.head * HEAD;
    c[a.probability(ds) + j] =
        j < a.seen ? dot<HEAD>(c, d_o(a.query) + e, v(a.first + j) + e) : 0.0f;
  });
  team.each(queries * H, [=](int item) {
    const At a(item);
    const int weight = a.probability(p), row = a.probability(ds);
    const float soften = 1.0f / sqrtf((float)HEAD);
    float along = 0;
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) along = fmaf(c[weight + j], c[row + j], along);
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) c[row + j] = c[weight + j] * (c[row + j] - along) * soften;
  });
  team.each(queries * (D / 4), [=](int item) {
    const int e = item % (D / 4) * 4;
    const At a(item / (D / 4) * H + e / HEAD);
    float sum[4] = {};
    COMPFAST_UNROLL(1)
    for (int j = 0; j < a.seen; j++) {
      const Four key = c.four(k(a.first + j) + e);
      const float score = c[a.probability(ds) + j];
      for (int l = 0; l < 4; l++) sum[l] = fmaf(score, key.at[l], sum[l]);
    }
    for (int l = 0; l < 4; l++) c[dq(a.query) + e + l] = sum[l];
  });
  team.each(sequences * T * (D / 4), [=](int item) {
    const int row = item / (D / 4), e = item % (D / 4) * 4;
    const int first = row / T * QUERIES, j = e / HEAD * N::KEYS + row % T;
    float key[4] = {}, value[4] = {};
    COMPFAST_UNROLL(1)
    for (int i = first; i < first + QUERIES; i++) {
      const Four query = c.four(q(i) + e), grad = c.four(d_o(i) + e);
      const float score = c[ds(i) + j], weight = c[p(i) + j];
      for (int l = 0; l < 4; l++) {
        key[l] = fmaf(score, query.at[l], key[l]);
        value[l] = fmaf(weight, grad.at[l], value[l]);
      }
    }
    for (int l = 0; l < 4; l++) {
      c[dk(row) + e + l] = key[l];
      c[dv(row) + e + l] = value[l];
    }
  });
}

}  // namespace cuda
}  // namespace compfast
