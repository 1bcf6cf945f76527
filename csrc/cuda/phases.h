// The pieces of a training step that a team of threads goes through side by side.
//
// `team.each(count, f)` calls f(0) ... f(count - 1), each by one thread, and then waits for all:
// what a piece writes the next one may read. A GPU's team is a thread block; on the host
// (HostTeam) the same items follow each other. No item reads what another of the same piece
// writes and every sum has one fixed order, so the number of threads changes no bit.
#pragma once

#include <cmath>

#include "../device.h"
#include "network.h"

namespace compfast {
namespace cuda {

struct HostTeam {
  template <class F>
  void each(int count, const F& f) const {
    for (int i = 0; i < count; i++) f(i);
  }
};

struct alignas(16) Four {
  float at[4];
};

// On-chip floats, and the parameters: the flat vector's first KEPT lie at the chip's beginning, the
// others in the member's row of device memory. Of each block of 32 floats the place of a group of
// four is mixed with the block's number, so that rows of 32, 64 or 96 floats that are read side by
// side, a column each, do not all meet the same banks.
template <int KEPT>
struct Chip {
  float *base, *row;
  COMPFAST_DEVICE static int place(int i) { return i ^ (((i >> 5) & 7) << 2); }
  COMPFAST_DEVICE float& operator[](int i) const { return base[place(i)]; }
  COMPFAST_DEVICE Four& four(int i) const { return *reinterpret_cast<Four*>(base + place(i)); }

  // element i, and four from there, of the tensor that begins at `tensor`
  COMPFAST_DEVICE float parameter(int tensor, int i) const {
    return tensor < KEPT ? (*this)[tensor + i] : row[tensor + i];
  }
  COMPFAST_DEVICE Four parameters(int tensor, int i) const {
    return tensor < KEPT ? four(tensor + i) : *reinterpret_cast<const Four*>(row + tensor + i);
  }
};

// Rows of a buffer: row r begins at offset + r * stride.
struct Rows {
  int offset, stride;
  COMPFAST_DEVICE int operator()(int r) const { return offset + r * stride; }
};

enum class Finish { PLAIN, RESIDUAL, GELU };

// x Phi(x) and its derivative
COMPFAST_DEVICE inline float gelu(float x, float& slope) {
  const float phi = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
  slope = phi + x * (0.39894228040143268f * expf(-0.5f * x * x));
  return x * phi;
}

// Two rows (one, where their number is odd) by four columns, `step` apart: the item of the products
// below.
struct Tile {
  int r0, r1, column, step;
  COMPFAST_DEVICE Tile(int item, int groups, int rows, int step)
      : r0(item / groups * 2),
        r1(r0 + 1 < rows ? r0 + 1 : r0),
        column(item % groups * (step == 1 ? 4 : 1)),
        step(step) {}
  COMPFAST_DEVICE static int count(int groups, int rows) { return (rows + 1) / 2 * groups; }

  // f(row, column of the tile, sum) for each of its elements
  template <class F>
  COMPFAST_DEVICE void each(const float (&sum)[2][4], const F& f) const {
    COMPFAST_UNROLL(2)
    for (int i = 0; i < 2; i++) COMPFAST_UNROLL(4)
    for (int j = 0; j < 4; j++)
      if (i <= r1 - r0) f(r0 + i, column + j * step, sum[i][j]);
  }
};

// y = x W^T + b, W [OUT, IN]; GELU: y = gelu(.), its slope to `extra`; RESIDUAL: + `extra`.
template <int IN, int OUT, Finish FINISH, class Team, class C>
COMPFAST_DEVICE void linear(const Team& team, C c, int rows, Rows x, int w, int b, Rows y,
                            Rows extra) {
  constexpr int GROUPS = OUT / 4;
  team.each(Tile::count(GROUPS, rows), [=](int item) {
    const Tile tile(item, GROUPS, rows, GROUPS);  // neighbours read neighbouring rows of W
    float sum[2][4] = {};
    COMPFAST_UNROLL(2)
    for (int k = 0; k < IN; k += 4) {
      const Four a0 = c.four(x(tile.r0) + k), a1 = c.four(x(tile.r1) + k);
      for (int j = 0; j < 4; j++) {
        const Four weight = c.parameters(w, (tile.column + j * GROUPS) * IN + k);
        for (int e = 0; e < 4; e++) {
          sum[0][j] = fmaf(a0.at[e], weight.at[e], sum[0][j]);
          sum[1][j] = fmaf(a1.at[e], weight.at[e], sum[1][j]);
        }
      }
    }
    tile.each(sum, [=](int row, int o, float value) {
      value += c.parameter(b, o);
      if (FINISH == Finish::RESIDUAL) value += c[extra(row) + o];
      if (FINISH == Finish::GELU) value = gelu(value, c[extra(row) + o]);
      c[y(row) + o] = value;
    });
  });
}

// dX (+)= dY W, times `slope` where SLOPED, which may be dX.
template <int IN, int OUT, bool ADD, bool SLOPED, class Team, class C>
COMPFAST_DEVICE void input_gradient(const Team& team, C c, int rows, Rows dy, int w, Rows dx,
                                    Rows slope) {
  constexpr int GROUPS = IN / 4;
  team.each(Tile::count(GROUPS, rows), [=](int item) {
    const Tile tile(item, GROUPS, rows, 1);
    float sum[2][4] = {};
    COMPFAST_UNROLL(4)
    for (int o = 0; o < OUT; o++) {
      const Four weight = c.parameters(w, o * IN + tile.column);
      const float d0 = c[dy(tile.r0) + o], d1 = c[dy(tile.r1) + o];
      for (int j = 0; j < 4; j++) {
        sum[0][j] = fmaf(d0, weight.at[j], sum[0][j]);
        sum[1][j] = fmaf(d1, weight.at[j], sum[1][j]);
      }
    }
    tile.each(sum, [=](int row, int k, float value) {
      if (SLOPED) value *= c[slope(row) + k];
      float& to = c[dx(row) + k];
      to = ADD ? to + value : value;
    });
  });
}

// dW += dY^T X, db += column sums of dY; an item is four by four weights, summed over rows.
template <int IN, int OUT, class Team, class C>
COMPFAST_DEVICE void weight_gradient(const Team& team, C c, int rows, Rows dy, Rows x, float* dw,
                                     float* db) {
  constexpr int GROUPS = IN / 4;
  team.each(OUT / 4 * GROUPS, [=](int item) {
    const int o = item / GROUPS * 4, k = item % GROUPS * 4;
    float sum[4][4] = {}, bias[4] = {};
    COMPFAST_UNROLL(2)
    for (int r = 0; r < rows; r++) {
      const Four a = c.four(dy(r) + o), b = c.four(x(r) + k);
      COMPFAST_UNROLL(4)
      for (int i = 0; i < 4; i++) {
        bias[i] += a.at[i];
        COMPFAST_UNROLL(4)
        for (int j = 0; j < 4; j++) sum[i][j] = fmaf(a.at[i], b.at[j], sum[i][j]);
      }
    }
    COMPFAST_UNROLL(4)
    for (int i = 0; i < 4; i++) {
      COMPFAST_UNROLL(4)
      for (int j = 0; j < 4; j++) dw[(o + i) * IN + k + j] += sum[i][j];
      if (k == 0) db[o + i] += bias[i];
    }
  });
}

// y = (x - mean) * rate * scale + shift from rows whose mean and rate are known.
template <int D, class Team, class C>
COMPFAST_DEVICE void normalise(const Team& team, C c, int rows, Rows x, int scale, int shift,
                               Rows y, int stats) {
  team.each(rows * D, [=](int item) {
    const int r = item / D, j = item % D;
    const float mean = c[stats + 2 * r], rate = c[stats + 2 * r + 1];
    c[y(r) + j] = fmaf((c[x(r) + j] - mean) * rate, c.parameter(scale, j), c.parameter(shift, j));
  });
}

// Layer norm over D columns: mean and 1 / deviation of a row, an item each, then the rows.
template <int D, class Team, class C>
COMPFAST_DEVICE void norm(const Team& team, C c, int rows, Rows x, int scale, int shift, Rows y,
                          int stats, float epsilon) {
  team.each(rows, [=](int r) {
    float mean = 0, variance = 0;
    COMPFAST_UNROLL(4)
    for (int j = 0; j < D; j++) mean += c[x(r) + j];
    mean *= 1.0f / D;
    COMPFAST_UNROLL(4)
    for (int j = 0; j < D; j++) {
      const float centred = c[x(r) + j] - mean;
      variance = fmaf(centred, centred, variance);
    }
    c[stats + 2 * r] = mean;
    c[stats + 2 * r + 1] = 1.0f / sqrtf(variance * (1.0f / D) + epsilon);
  });
  normalise<D>(team, c, rows, x, scale, shift, y, stats);
}

// dX (+)= the norm's gradient of dY, where dX may be X; d_scale and d_shift [D] grow by their sums
// over rows.
template <int D, bool ADD, class Team, class C>
COMPFAST_DEVICE void norm_gradient(const Team& team, C c, int rows, Rows dy, Rows x, int scale,
                                   int stats, Rows dx, float* d_scale, float* d_shift) {
  team.each(D, [=](int j) {
    float along = 0, sum = 0;
    COMPFAST_UNROLL(4)
    for (int r = 0; r < rows; r++) {
      const float grad = c[dy(r) + j];
      along = fmaf(grad, (c[x(r) + j] - c[stats + 2 * r]) * c[stats + 2 * r + 1], along);
      sum += grad;
    }
    d_scale[j] += along;
    d_shift[j] += sum;
  });
  team.each(rows, [=](int r) {
    const float mean = c[stats + 2 * r], rate = c[stats + 2 * r + 1];
    float sum = 0, along = 0;
    COMPFAST_UNROLL(4)
    for (int j = 0; j < D; j++) {
      const float grad = c[dy(r) + j] * c.parameter(scale, j);
      sum += grad;
      along = fmaf(grad, (c[x(r) + j] - mean) * rate, along);
    }
    sum *= 1.0f / D;
    along *= 1.0f / D;
    COMPFAST_UNROLL(4)
    for (int j = 0; j < D; j++) {
      const float grad = c[dy(r) + j] * c.parameter(scale, j);
      const float value = (grad - sum - (c[x(r) + j] - mean) * rate * along) * rate;
      float& to = c[dx(r) + j];
      to = ADD ? to + value : value;
    }
  });
}

// tokens [rows]; x = token row + position row
template <class N, class Team, class C>
COMPFAST_DEVICE void embed(const Team& team, C c, int rows, const int32_t* tokens, int table,
                           int positions, Rows x) {
  team.each(rows * N::D, [=](int item) {
    const int r = item / N::D, j = item % N::D;
    c[x(r) + j] =
        c.parameter(table, tokens[r] * N::D + j) + c.parameter(positions, r % N::T * N::D + j);
  });
}

// An item owns one column of the tokens that leave one remainder: each token's rows in order.
template <class N, class Team, class C>
COMPFAST_DEVICE void embed_gradient(const Team& team, C c, int rows, const int32_t* tokens, Rows dx,
                                    float* d_table, float* d_positions) {
  constexpr int CLASSES = 8;
  team.each(CLASSES * N::D, [=](int item) {
    const int kind = item / N::D, j = item % N::D;
    for (int r = 0; r < rows; r++)
      if (tokens[r] % CLASSES == kind) d_table[tokens[r] * N::D + j] += c[dx(r) + j];
  });
  team.each(N::T * N::D, [=](int item) {
    const int t = item / N::D, j = item % N::D;
    for (int r = t; r < rows; r += N::T) d_positions[t * N::D + j] += c[dx(r) + j];
  });
}

// A sequence's loss; its logits z become (softmax - onehot) * share.
template <class N, class Team, class C>
COMPFAST_DEVICE void cross_entropy(const Team& team, C c, int sequences, const int32_t* targets,
                                   int z, int loss, float share) {
  team.each(sequences, [=](int s) {
    const int row = z + s * N::V;
    float best = -INFINITY, sum = 0;
    COMPFAST_UNROLL(1)
    for (int j = 0; j < N::V; j++) best = c[row + j] > best ? c[row + j] : best;
    const float wanted = c[row + targets[s]];
    COMPFAST_UNROLL(1)
    for (int j = 0; j < N::V; j++) sum += c[row + j] = expf(c[row + j] - best);
    c[loss + s] = best + logf(sum) - wanted;
    COMPFAST_UNROLL(1)
    for (int j = 0; j < N::V; j++) c[row + j] = c[row + j] / sum * share;
    c[row + targets[s]] -= share;
  });
}

}  // namespace cuda
}  // namespace compfast
