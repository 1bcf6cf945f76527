// Generalised attention where it is a part of a network: views among others' numbers, gradients
// that are added. The numbers themselves are checked in tests/test_mixed_attention.py.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "attention_mixed.h"

namespace {

// A view of rows [rows, columns], `ld` apart, whose neighbours are NaN; exactly as long as it is.
struct MixedView {
  long rows, columns, ld;
  std::vector<float> all;
  MixedView(long rows, long columns, long ld)
      : rows(rows),
        columns(columns),
        ld(ld),
        all((rows - 1) * ld + columns, std::numeric_limits<float>::quiet_NaN()) {}
  MixedView& fill(const std::vector<float>& from) {
    for (long r = 0; r < rows; r++)
      std::memcpy(all.data() + r * ld, from.data() + r * columns, columns * sizeof(float));
    return *this;
  }
  // The numbers of the view; every neighbour must still be NaN.
  std::vector<float> dense() const {
    std::vector<float> found(rows * columns);
    for (long i = 0; i < (long)all.size(); i++) {
      const long column = i % ld;
      if (column < columns) found[i / ld * columns + column] = all[i];
      if (column >= columns) expect(all[i] != all[i], "a neighbour of a view", all[i], 0);
    }
    return found;
  }
};

struct MixedGradients {
  std::vector<float> o, q, k, v, relative, deep;
};

// One sequence whose tensors lie `apart` floats from the next row's; dk, dv, d_relative and d_deep
// begin as `before`.
MixedGradients mixed_gradients(const MixedShape& s, long apart, const MixedGradients& before) {
  generator.seed(11);
  const long wide_k = s.heads * s.d_k, wide_v = s.heads * s.d_v;
  const long ld = mixed_relative_ld(s.t), keep_ld = padded(s.t);
  const auto view = [&](long rows, long columns) {
    return MixedView(rows, columns, columns + apart).fill(matrix(rows, columns, columns));
  };
  const MixedView q = view(s.t_q, wide_k), k = view(s.t, wide_k), v = view(s.t, wide_v);
  const MixedView d_o = view(s.t_q, wide_v), deep = view(wide_v, s.d_v);
  auto relative = matrix(s.heads, ld, ld);
  const auto keep = matrix(s.t_q, s.t, keep_ld);
  for (long h = 0; h < s.heads; h++)  // what is read there has no effect
    for (long j = 2 * s.t - 1; j < ld; j++)
      relative[h * ld + j] = std::numeric_limits<float>::quiet_NaN();
  MixedView o(s.t_q, wide_v, wide_v + apart), d_q(s.t_q, wide_k, wide_k + apart);
  MixedView d_k(s.t, wide_k, wide_k + apart), d_v(s.t, wide_v, wide_v + apart);
  MixedView d_deep(wide_v, s.d_v, s.d_v + apart);
  if (s.add_dk) d_k.fill(before.k);
  if (s.add_dv) d_v.fill(before.v);
  d_deep.fill(before.deep);
  std::vector<float> d_relative = before.relative;
  std::vector<float> work(mixed_room(s.t, s.heads, s.d_k, s.d_v, s.path));
  const auto poison = [&] { work.assign(work.size(), std::numeric_limits<float>::quiet_NaN()); };
  const MixedDeep layer{deep.all.data(), deep.ld};
  poison();
  mixed_forward(s, q.all.data(), q.ld, k.all.data(), k.ld, v.all.data(), v.ld, relative.data(), ld,
                keep.data(), keep_ld, layer, o.all.data(), o.ld, work.data());
  poison();
  mixed_backward(s, q.all.data(), q.ld, k.all.data(), k.ld, v.all.data(), v.ld, relative.data(), ld,
                 keep.data(), keep_ld, layer, d_o.all.data(), d_o.ld, d_q.all.data(), d_q.ld,
                 d_k.all.data(), d_k.ld, d_v.all.data(), d_v.ld, d_relative.data(),
                 d_deep.all.data(), work.data());
  return {o.dense(), d_q.dense(), d_k.dense(), d_v.dense(), d_relative, d_deep.dense()};
}

void same(const char* what, const std::vector<float>& got, const std::vector<float>& want) {
  for (size_t i = 0; i < want.size(); i++) expect(got[i] == want[i], what, got[i], want[i]);
}

// got = before + written
void added(const char* what, const std::vector<float>& got, const std::vector<float>& before,
           const std::vector<float>& written) {
  for (size_t i = 0; i < got.size(); i++)
    expect(got[i] == before[i] + written[i], what, got[i], before[i] + written[i]);
}

void check_mixed(MixedShape s) {
  const long wide_k = s.heads * s.d_k, wide_v = s.heads * s.d_v;
  const long relative = s.heads * mixed_relative_ld(s.t), deep = wide_v * s.d_v;
  MixedGradients zero;
  zero.relative.assign(relative, 0.0f);
  zero.deep.assign(deep, 0.0f);
  const MixedGradients written = mixed_gradients(s, 0, zero), apart = mixed_gradients(s, 5, zero);
  same("mixed o in a view", apart.o, written.o);
  same("mixed dq in a view", apart.q, written.q);
  same("mixed dk in a view", apart.k, written.k);
  same("mixed dv in a view", apart.v, written.v);
  same("mixed d_relative in a view", apart.relative, written.relative);
  same("mixed d_deep in a view", apart.deep, written.deep);
  MixedGradients before;
  before.k = matrix(s.t, wide_k, wide_k);
  before.v = matrix(s.t, wide_v, wide_v);
  before.relative = matrix(1, relative, relative);
  before.deep = matrix(1, deep, deep);
  s.add_dk = s.add_dv = true;
  const MixedGradients got = mixed_gradients(s, 5, before);
  added("mixed dk added", got.k, before.k, written.k);
  added("mixed dv added", got.v, before.v, written.v);
  added("mixed d_relative added", got.relative, before.relative, written.relative);
  if (s.path == MIXED_VALUE_DEEP) added("mixed d_deep added", got.deep, before.deep, written.deep);
}

void test_mixed() {
  for (int32_t weights : {MIXED_SOFTMAX, MIXED_LINEAR, MIXED_RMS_HEAD})
    for (int32_t path : {MIXED_NONE, MIXED_VALUE_LINEAR, MIXED_VALUE_RELU, MIXED_VALUE_DEEP})
      for (bool causal : {false, true})
        for (long t : {1L, 5L, 16L, 18L, 37L})
          for (long t_q : {1L, 4L, t})
            if (t_q <= t) {
              check_mixed({t_q, t, 3, 2, 5, causal, 0.37f, weights, path, 1e-6f});
              // of more rows than a block wide heads add each block's gradients to what was there
              if (path == MIXED_NONE && t <= MIXED_WIDE_ROWS)
                check_mixed({t_q, t, 3, 16, 32, causal, 0.37f, weights, path, 1e-6f});
            }
}

}  // namespace
