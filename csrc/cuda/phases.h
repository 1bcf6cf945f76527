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

// On-chip floats. The bits that choose one of eight groups of four are mixed with those of the
// row, so that eight threads that read one column of eight rows meet eight different banks.
struct Chip {
  float* base;
  COMPFAST_DEVICE static int place(int i) { return i ^ (((i >> 5) & 7) << 2); }
  COMPFAST_DEVICE float& operator[](int i) const { return base[place(i)]; }
  COMPFAST_DEVICE Four& four(int i) const { return *reinterpret_cast<Four*>(base + place(i)); }
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

// Two rows (one, where their number is odd) by four columns: the item of the products below.
struct Tile {
  int r0, r1, column;
  COMPFAST_DEVICE Tile(int item, int groups, int rows)
      : r0(item / groups * 2), r1(r0 + 1 < rows ? r0 + 1 : r0), column(item % groups * 4) {}
  COMPFAST_DEVICE static int count(int groups, int rows) { return (rows + 1) / 2 * groups; }

  // f(row, column of the tile, sum) for each of its elements
  template <class F>
  COMPFAST_DEVICE void each(const float (&sum)[2][4], const F& f) const {
    COMPFAST_UNROLL(2)
    for (int i = 0; i < 2; i++) COMPFAST_UNROLL(4)
    for (int j = 0; j < 4; j++)
      if (i <= r1 - r0) f(r0 + i, column + j, sum[i][j]);
  }
};

// y = x W^T + b, W [OUT, IN]; GELU: y = gelu(.), its slope to `extra`; RESIDUAL: + `extra`.
template <int IN, int OUT, Finish FINISH, class Team>
COMPFAST_DEVICE void linear(const Team& team, Chip c, int rows, Rows x, int w, int b, Rows y,
                            Rows extra) {
  constexpr int GROUPS = OUT / 4;
  team.each(Tile::count(GROUPS, rows), [=](int item) {
    const Tile tile(item, GROUPS, rows);
    float sum[2][4] = {};
    COMPFAST_UNROLL(2)
    for (int k = 0; k < IN; k += 4) {
      const Four a0 = c.four(x(tile.r0) + k), a1 = c.four(x(tile.r1) + k);
      for (int j = 0; j < 4; j++) {
        const Four weight = c.four(w + (tile.column + j) * IN + k);
        for (int e = 0; e < 4; e++) {
          sum[0][j] = fmaf(a0.at[e], weight.at[e], sum[0][j]);
          sum[1][j] = fmaf(a1.at[e], weight.at[e], sum[1][j]);
        }
      }
    }
    tile.each(sum, [=](int row, int o, float value) {
      value += c[b + o];
      if (FINISH == Finish::RESIDUAL) value += c[extra(row) + o];
      if (FINISH == Finish::GELU) value = gelu(value, c[extra(row) + o]);
      c[y(row) + o] = value;
    });
  });
}

// dX (+)= dY W, times `slope` where SLOPED.
template <int IN, int OUT, bool ADD, bool SLOPED, class Team>
COMPFAST_DEVICE void input_gradient(const Team& team, Chip c, int rows, Rows dy, int w, Rows dx,
                                    Rows slope) {
  constexpr int GROUPS = IN / 4;
  team.each(Tile::count(GROUPS, rows), [=](int item) {
    const Tile tile(item, GROUPS, rows);
    float sum[2][4] = {};
    COMPFAST_UNROLL(4)
    for (int o = 0; o < OUT; o++) {
      const Four weight = c.four(w + o * IN + tile.column);
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
template <int IN, int OUT, class Team>
COMPFAST_DEVICE void weight_gradient(const Team& team, Chip c, int rows, Rows dy, Rows x, float* dw,
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

// Layer norm over D columns, eps 1e-5; an item is a row.
template <int D, class Team>
COMPFAST_DEVICE void norm(const Team& team, Chip c, int rows, Rows x, int scale, int shift, Rows y,
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
    const float rate = 1.0f / sqrtf(variance * (1.0f / D) + epsilon);
    c[stats + 2 * r] = mean;
    c[stats + 2 * r + 1] = rate;
    COMPFAST_UNROLL(4)
    for (int j = 0; j < D; j++)
      c[y(r) + j] = fmaf((c[x(r) + j] - mean) * rate, c[scale + j], c[shift + j]);
  });
}

// dX (+)= the norm's gradient of dY; d_scale and d_shift [D] grow by their sums over rows.
template <int D, bool ADD, class Team>
COMPFAST_DEVICE void norm_gradient(const Team& team, Chip c, int rows, Rows dy, Rows x, int scale,
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
      const float grad = c[dy(r) + j] * c[scale + j];
      sum += grad;
      along = fmaf(grad, (c[x(r) + j] - mean) * rate, along);
    }
    sum *= 1.0f / D;
    along *= 1.0f / D;
    COMPFAST_UNROLL(4)
    for (int j = 0; j < D; j++) {
      const float grad = c[dy(r) + j] * c[scale + j];
      const float value = (grad - sum - (c[x(r) + j] - mean) * rate * along) * rate;
      float& to = c[dx(r) + j];
      to = ADD ? to + value : value;
    }
  });
}

// Causal attention of QUERIES rows a sequence (T, or the last alone) over T keys, one head of
// width D. q: a row a query; k, v: a row a token; p: a row of N::KEYS a query.
template <class N, int QUERIES, class Team>
COMPFAST_DEVICE void attention(const Team& team, Chip c, int sequences, Rows q, Rows k, Rows v,
                               Rows p, Rows o) {
  constexpr int D = N::D;
  team.each(sequences * QUERIES, [=](int r) {
    const int first = r / QUERIES * N::T, seen = r % QUERIES + N::T - QUERIES + 1;
    float best = -INFINITY, sum = 0;
    const float soften = 1.0f / sqrtf((float)D);
    COMPFAST_UNROLL(1)
    for (int j = 0; j < seen; j++) {
      float score = 0;
      COMPFAST_UNROLL(4)
      for (int e = 0; e < D; e++) score = fmaf(c[q(r) + e], c[k(first + j) + e], score);
      c[p(r) + j] = score *= soften;
      best = score > best ? score : best;
    }
    COMPFAST_UNROLL(1)
    for (int j = 0; j < seen; j++) sum += c[p(r) + j] = expf(c[p(r) + j] - best);
    COMPFAST_UNROLL(1)
    for (int j = 0; j < N::T; j++) c[p(r) + j] = j < seen ? c[p(r) + j] / sum : 0.0f;
    COMPFAST_UNROLL(1)
    for (int e = 0; e < D; e++) {
      float mixed = 0;
      COMPFAST_UNROLL(1)
      for (int j = 0; j < seen; j++) mixed = fmaf(c[p(r) + j], c[v(first + j) + e], mixed);
      c[o(r) + e] = mixed;
    }
  });
}

template <class N, int QUERIES, class Team>
COMPFAST_DEVICE void attention_gradient(const Team& team, Chip c, int sequences, Rows q, Rows k,
                                        Rows v, Rows p, Rows d_o, Rows ds, Rows dq, Rows dk,
                                        Rows dv) {
  constexpr int D = N::D;
  team.each(sequences * QUERIES, [=](int r) {
    const int first = r / QUERIES * N::T;
    float along = 0;
    COMPFAST_UNROLL(1)
    for (int j = 0; j < N::T; j++) {
      float grad = 0;
      COMPFAST_UNROLL(4)
      for (int e = 0; e < D; e++) grad = fmaf(c[d_o(r) + e], c[v(first + j) + e], grad);
      c[ds(r) + j] = grad;
      along = fmaf(c[p(r) + j], grad, along);
    }
    const float soften = 1.0f / sqrtf((float)D);
    COMPFAST_UNROLL(1)
    for (int j = 0; j < N::T; j++) c[ds(r) + j] = c[p(r) + j] * (c[ds(r) + j] - along) * soften;
    COMPFAST_UNROLL(1)
    for (int e = 0; e < D; e++) {
      float sum = 0;
      COMPFAST_UNROLL(1)
      for (int j = 0; j < N::T; j++) sum = fmaf(c[ds(r) + j], c[k(first + j) + e], sum);
      c[dq(r) + e] = sum;
    }
  });
  team.each(sequences * N::T * (D / 4), [=](int item) {
    const int row = item / (D / 4), e = item % (D / 4) * 4, j = row % N::T;
    const int first = row / N::T * QUERIES;
    float key[4] = {}, value[4] = {};
    COMPFAST_UNROLL(1)
    for (int i = 0; i < QUERIES; i++) {
      const Four query = c.four(q(first + i) + e), grad = c.four(d_o(first + i) + e);
      const float score = c[ds(first + i) + j], weight = c[p(first + i) + j];
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

// tokens [rows]; x = token row + position row
template <class N, class Team>
COMPFAST_DEVICE void embed(const Team& team, Chip c, int rows, const int32_t* tokens, int table,
                           int positions, Rows x) {
  team.each(rows * N::D, [=](int item) {
    const int r = item / N::D, j = item % N::D;
    c[x(r) + j] = c[table + tokens[r] * N::D + j] + c[positions + r % N::T * N::D + j];
  });
}

// An item owns one column of the tokens that leave one remainder: each token's rows in order.
template <class N, class Team>
COMPFAST_DEVICE void embed_gradient(const Team& team, Chip c, int rows, const int32_t* tokens,
                                    Rows dx, float* d_table, float* d_positions) {
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
template <class N, class Team>
COMPFAST_DEVICE void cross_entropy(const Team& team, Chip c, int sequences, const int32_t* targets,
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
