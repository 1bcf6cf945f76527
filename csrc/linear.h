// y = act(x W^T + b) + residual, W [d_out, d_in] as in nn.Linear; one GEMM form a direction.
#pragma once

#include "activation.h"
#include "gemm.h"
#include "plan.h"

namespace {

// out [d_in, packed_ld] = W^T, zero padded
inline void transpose_weight(const compfast::OpRecord& op, const float* w, float* out) {
  constexpr long BLOCK = 16;
  for (long n0 = 0; n0 < op.d_out; n0 += BLOCK)
    for (long k = 0; k < op.d_in; k++)
      for (long n = n0; n < op.d_out && n < n0 + BLOCK; n++)
        out[k * op.packed_ld + n] = w[n * op.weight_ld + k];
  for (long k = 0; k < op.d_in; k++)
    for (long n = op.d_out; n < op.packed_ld; n++) out[k * op.packed_ld + n] = 0.0f;
}

inline uint32_t* words(float* p) { return reinterpret_cast<uint32_t*>(p); }
inline const uint32_t* words(const float* p) { return reinterpret_cast<const uint32_t*>(p); }

// Copies of the weights that forward (W^T) and backward (bf16: W) read, and the zero-padded bias;
// refreshed once a step. `operands` is the workspace's room for bfloat16 operands.
inline void linear_pack(const compfast::OpRecord& op, const float* params, float* packed,
                        float* operands) {
  const float* w = params + op.weight;
  if (op.bf16) {
    transpose_weight(op, w, operands);
    pack_row_pairs(op.d_in, op.d_out, operands, op.packed_ld, words(packed + op.packed),
                   op.packed_ld);
    pack_row_pairs(op.d_out, op.d_in, w, op.weight_ld, words(packed + op.packed_back),
                   op.weight_ld);
  } else {
    transpose_weight(op, w, packed + op.packed);
  }
  if (op.bias >= 0)
    std::memcpy(packed + op.packed_bias, params + op.bias, op.d_out * sizeof(float));
}

// Row stride of an input of which the op reads `rows` rows a sequence (the last, if fewer).
struct Rows {
  long offset, stride;
};

inline Rows rows_of(const compfast::ViewRecord& view, long rows) {
  if (view.rows == rows) return {0, view.ld};
  return {(long)(view.rows - 1) * view.ld, (long)view.rows * view.ld};
}

inline void linear_forward(const compfast::OpRecord& op, long rows, const float* packed,
                           float* values) {
  const Rows x = rows_of(op.in[0], op.out.rows);
  Epilogue e;
  e.bias = op.bias >= 0 ? packed + op.packed_bias : nullptr;
  if (op.inputs > 1) {
    const Rows r = rows_of(op.in[1], op.out.rows);
    e.residual = values + op.in[1].value + r.offset;
    e.residual_ld = r.stride;
  }
  float* y = values + op.out.value;
  const float* from = values + op.in[0].value + x.offset;
  if (op.bf16) {
    uint32_t* a = words(values + op.operands);
    pack_rows(rows, op.d_in, from, x.stride, a, pair_ld(op.d_in));
    gemm<uint32_t>(rows, op.d_out, pairs(op.d_in), a, pair_ld(op.d_in), 1,
                   words(packed + op.packed), op.packed_ld, y, op.out.ld, e);
  } else {
    gemm(rows, op.d_out, op.d_in, from, x.stride, 1, packed + op.packed, op.packed_ld, y, op.out.ld,
         e);
  }
  if (op.activation != IDENTITY) activate(op.activation, y, values + op.slope, rows * op.out.ld);
}

inline void column_sums(long rows, long columns, const float* x, long ld, float* sums) {
  for (long c = 0; c < columns; c += W) {
    vf s[4] = {};
    long r = 0;
    for (; r + 4 <= rows; r += 4)
      for (int u = 0; u < 4; u++) s[u] += load(x + (r + u) * ld + c);
    for (; r < rows; r++) s[0] += load(x + r * ld + c);
    const vf total = (s[0] + s[1]) + (s[2] + s[3]);
    if (c + W <= columns)
      store(sums + c, load(sums + c) + total);
    else
      for (long j = 0; c + j < columns; j++) sums[c + j] += total[j];
  }
}

// dW += dY^T X
inline void linear_backward_weight(const compfast::OpRecord& op, long rows, const Rows& x,
                                   const float* dy, float* values, float* d_weight) {
  Epilogue e;
  e.add = true;
  const float* from = values + op.in[0].value + x.offset;
  if (!op.bf16) {
    gemm(op.d_out, op.d_in, rows, dy, 1, op.out.ld, from, x.stride, d_weight, op.weight_ld, e);
    return;
  }
  uint32_t* a = words(values + op.operands);
  uint32_t* b = a + pairs(rows) * op.out.ld;
  pack_row_pairs(rows, op.d_out, dy, op.out.ld, a, op.out.ld);
  pack_row_pairs(rows, op.d_in, from, x.stride, b, op.weight_ld);
  gemm<uint32_t>(op.d_out, op.d_in, pairs(rows), a, 1, op.out.ld, b, op.weight_ld, d_weight,
                 op.weight_ld, e);
}

// dX (+)= dY W, times the slope of x's activation
inline void linear_backward_input(const compfast::OpRecord& op, long rows, const Rows& x,
                                  const float* dy, const float* params, const float* packed,
                                  float* values) {
  Epilogue e;
  e.add = op.in[0].mode != compfast::GRAD_WRITE;
  if (op.factor >= 0) {
    e.factor = values + op.factor + x.offset;
    e.factor_ld = x.stride;
  }
  float* dx = values + op.in[0].grad + x.offset;
  if (!op.bf16) {
    gemm(rows, op.d_in, op.d_out, dy, op.out.ld, 1, params + op.weight, op.weight_ld, dx, x.stride,
         e);
    return;
  }
  uint32_t* a = words(values + op.operands);
  pack_rows(rows, op.d_out, dy, op.out.ld, a, pair_ld(op.d_out));
  gemm<uint32_t>(rows, op.d_in, pairs(op.d_out), a, pair_ld(op.d_out), 1,
                 words(packed + op.packed_back), op.weight_ld, dx, x.stride, e);
}

inline void linear_backward(const compfast::OpRecord& op, long rows, const float* params,
                            const float* packed, float* values, float* gradient) {
  float* dy = values + op.out.grad;
  if (op.activation != IDENTITY && !op.slope_applied)
    for (long i = 0; i < rows * op.out.ld; i += W)
      store(dy + i, load(dy + i) * load(values + op.slope + i));
  const Rows x = rows_of(op.in[0], op.out.rows);
  linear_backward_weight(op, rows, x, dy, values, gradient + op.weight);
  if (op.bias >= 0) column_sums(rows, op.d_out, dy, op.out.ld, gradient + op.bias);
  if (op.in[0].mode != compfast::GRAD_NONE)
    linear_backward_input(op, rows, x, dy, params, packed, values);
}

// The residual's gradient is dY itself.
inline void residual_backward(const compfast::OpRecord& op, long rows, float* values) {
  const Rows r = rows_of(op.in[1], op.out.rows);
  const float* dy = values + op.out.grad;
  float* dx = values + op.in[1].grad + r.offset;
  if (dx == dy) return;  // the layout gave both one place
  const bool add = op.in[1].mode != compfast::GRAD_WRITE;
  for (long i = 0; i < rows; i++)
    for (long j = 0; j < op.out.width; j += W) {
      vf g = load(dy + i * op.out.ld + j);
      if (add) g += load(dx + i * r.stride + j);
      store(dx + i * r.stride + j, g);
    }
}

}  // namespace
