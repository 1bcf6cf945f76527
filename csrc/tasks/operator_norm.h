// The largest singular value of a small matrix in a fixed order of operations:
// compfast/tasks/hyperteacher_net.py, bit for bit. Loops over rows vectorise; each sum runs from
// the first term to the last.
#pragma once

#include <cstdint>
#include <cstring>

namespace compfast {

constexpr int32_t NORM_MOST = 64;  // rows and columns

// Householder's form of symmetric g [n, n], which is used up: diagonal [n], squares of the
// off-diagonal [n - 1].
static inline void norm_tridiagonal(double* g, int32_t n, double* diagonal, double* squares) {
  double v[NORM_MOST], p[NORM_MOST];
  for (int32_t k = 0; k + 1 < n; k++) {
    double* own = g + (int64_t)(k + 1) * n + k + 1;  // the rest's first element; rows n apart
    const int32_t m = n - 1 - k;
    diagonal[k] = g[(int64_t)k * n + k];
    double square = 0.0;
    for (int32_t i = 0; i < m; i++) {
      v[i] = own[(int64_t)i * n - 1];
      square = square + v[i] * v[i];
    }
    squares[k] = square;
    if (m == 1) break;
    const double root = __builtin_sqrt(square);
    v[0] = v[0] < 0.0 ? v[0] - root : v[0] + root;
    double length = 0.0;
    for (int32_t i = 0; i < m; i++) length = length + v[i] * v[i];
    const double beta = length > 0.0 ? 2.0 / length : 0.0;
    std::memset(p, 0, (size_t)m * sizeof *p);
    for (int32_t j = 0; j < m; j++)
      for (int32_t i = 0; i < m; i++) p[i] = p[i] + own[(int64_t)j * n + i] * v[j];
    double dot = 0.0;
    for (int32_t i = 0; i < m; i++) {
      p[i] = beta * p[i];
      dot = dot + p[i] * v[i];
    }
    const double half = 0.5 * beta * dot;
    for (int32_t i = 0; i < m; i++) p[i] = p[i] - half * v[i];
    for (int32_t i = 0; i < m; i++)
      for (int32_t j = 0; j < m; j++)
        own[(int64_t)i * n + j] = own[(int64_t)i * n + j] - (v[i] * p[j] + p[i] * v[j]);
  }
  diagonal[n - 1] = g[(int64_t)n * n - 1];
}

// The largest eigenvalue of a positive semi-definite tridiagonal matrix: of seven points a round
// those are counted that lie below it, and the bracket that is left is cut into eighths again.
static inline double norm_largest(const double* diagonal, const double* squares, int32_t n) {
  double low = 0.0, step = 0.0;
  for (int32_t i = 0; i < n; i++) step = step + diagonal[i];
  step = step * 0.125;
  for (int round = 0; round < 13; round++) {
    double x[8], pivot[8];
    double below[8];
    for (int j = 0; j < 8; j++) {  // the eighth is there to fill a vector
      x[j] = low + (double)(j + 1) * step;
      pivot[j] = x[j] - diagonal[0];
      below[j] = pivot[j] <= 0.0 ? 1.0 : 0.0;
    }
    for (int32_t i = 1; i < n; i++)
      for (int j = 0; j < 8; j++) {
        const double divisor = pivot[j] <= 0.0 ? 1.0 : pivot[j];
        pivot[j] = (x[j] - diagonal[i]) - squares[i - 1] / divisor;
        below[j] = pivot[j] <= 0.0 ? 1.0 : below[j];
      }
    double count = 0.0;
    for (int j = 0; j < 7; j++) count += below[j];
    low = low + count * step;
    step = step * 0.125;
  }
  return low + step;
}

// Of w [rows, columns].
static inline double operator_norm(const double* w, int32_t rows, int32_t columns) {
  double turned[NORM_MOST * NORM_MOST], g[NORM_MOST * NORM_MOST];
  double diagonal[NORM_MOST], squares[NORM_MOST];
  const int32_t n = rows < columns ? rows : columns, inner = rows < columns ? columns : rows;
  const bool tall = rows > columns;
  for (int32_t i = 0; i < n; i++)  // [inner, n], whose columns' products are g
    for (int32_t k = 0; k < inner; k++)
      turned[k * n + i] = tall ? w[k * columns + i] : w[i * columns + k];
  std::memset(g, 0, (size_t)((int64_t)n * n) * sizeof *g);
  for (int32_t k = 0; k < inner; k++)
    for (int32_t i = 0; i < n; i++)
      for (int32_t j = 0; j < n; j++)
        g[i * n + j] = g[i * n + j] + turned[k * n + i] * turned[k * n + j];
  norm_tridiagonal(g, n, diagonal, squares);
  return __builtin_sqrt(norm_largest(diagonal, squares, n));
}

}  // namespace compfast
