// One matrix a head. Narrow: y_h = x_h W_h^T + b_h, [d] -> [width]; else y_h = x_h W_h, back from
// [width] to [d]. W_h [width, d] are the head's rows of the weight; heads stand side by side in
// x and y. Each direction's backward is the other direction.
#pragma once

#include "linear.h"

namespace {

// [rows, heads * n]: a head is n columns
struct HeadRows {
  float* data;
  long ld;
};

inline void narrow(const compfast::OpRecord& op, long rows, HeadRows x, const float* packed,
                   const float* bias, HeadRows y, bool add, float* scratch) {
  for (long h = 0; h < op.heads; h++) {
    const long column = h * op.head_width;
    Epilogue e;
    e.bias = bias ? bias + column : nullptr;
    e.add = add;
    gemm_exact(rows, op.head_width, op.d_in, x.data + h * op.d_in, x.ld, 1,
               packed + op.packed + column, op.packed_ld, y.data + column, y.ld, e, scratch);
  }
}

inline void widen(const compfast::OpRecord& op, long rows, HeadRows x, const float* params,
                  HeadRows y, bool add, float* scratch) {
  for (long h = 0; h < op.heads; h++) {
    const long column = h * op.head_width;
    Epilogue e;
    e.add = add;
    gemm_exact(rows, op.d_in, op.head_width, x.data + column, x.ld, 1,
               params + op.weight + column * op.weight_ld, op.weight_ld, y.data + h * op.d_in, y.ld,
               e, scratch);
  }
}

// dW_h += n_h^T w_h over rows; n [rows, heads * width], w [rows, heads * d]
inline void head_weight_gradient(const compfast::OpRecord& op, long rows, HeadRows n, HeadRows w,
                                 float* d_weight, float* scratch) {
  Epilogue e;
  e.add = true;
  for (long h = 0; h < op.heads; h++) {
    HeadRows own = {w.data + h * op.d_in, w.ld};
    if (op.d_in % W) {  // the padding of the gradient stays zero
      const long wide = padded(op.d_in);
      for (long r = 0; r < rows; r++) {
        std::memcpy(scratch + r * wide, own.data + r * own.ld, op.d_in * sizeof(float));
        std::memset(scratch + r * wide + op.d_in, 0, (wide - op.d_in) * sizeof(float));
      }
      own = {scratch, wide};
    }
    gemm(op.head_width, op.d_in, rows, n.data + h * op.head_width, 1, n.ld, own.data, own.ld,
         d_weight + h * op.head_width * op.weight_ld, op.weight_ld, e);
  }
}

inline void head_linear_forward(const compfast::OpRecord& op, long sequences, const float* params,
                                const float* packed, float* values, float* scratch) {
  const long rows = sequences * op.out.rows;
  const Rows at = rows_of(op.in[0], op.out.rows);
  const HeadRows x = {values + op.in[0].value + at.offset, at.stride};
  const HeadRows y = {values + op.out.value, op.out.ld};
  const float* bias = op.bias >= 0 ? packed + op.packed_bias : nullptr;
  if (op.narrow)
    narrow(op, rows, x, packed, bias, y, false, scratch);
  else
    widen(op, rows, x, params, y, false, scratch);
}

inline void head_linear_backward(const compfast::OpRecord& op, long sequences, const float* params,
                                 const float* packed, float* values, float* gradient,
                                 float* scratch) {
  const long rows = sequences * op.out.rows;
  const Rows at = rows_of(op.in[0], op.out.rows);
  const HeadRows x = {values + op.in[0].value + at.offset, at.stride};
  const HeadRows dx = {values + op.in[0].grad + at.offset, at.stride};
  const HeadRows dy = {values + op.out.grad, op.out.ld};
  const bool add = op.in[0].mode != compfast::GRAD_WRITE;
  if (op.narrow) {
    head_weight_gradient(op, rows, dy, x, gradient + op.weight, scratch);
    if (op.bias >= 0)
      column_sums(rows, op.heads * op.head_width, dy.data, dy.ld, gradient + op.bias);
    widen(op, rows, dy, params, dx, add, scratch);
  } else {
    head_weight_gradient(op, rows, x, dy, gradient + op.weight, scratch);
    narrow(op, rows, dy, packed, nullptr, dx, add, scratch);
  }
}

}  // namespace
