// A network that one thread block can hold: two pre-norm layers, one head as wide as the model,
// GELU, biases everywhere, a final norm, the loss at the last position. All sizes are known to the
// compiler; the flat vector is that of compfast/engines/layout.py (tests/test_cuda.py compares).
#pragma once

#include <cstdint>

namespace compfast {
namespace cuda {

template <int T_, int D_, int FF_, int V_>
struct Network {
  static constexpr int LAYERS = 2, T = T_, D = D_, FF = FF_, V = V_;
  static constexpr int KEYS = 16;  // floats a row of probabilities
  static_assert(T <= KEYS && D % 32 == 0 && FF % 32 == 0 && V % 16 == 0, "whole blocks of floats");
};

using Tiny = Network<9, 32, 64, 112>;

// Where a layer's tensors begin. The last layer asks one query a sequence, so its query has a
// product of its own: wq, bq stand before wk, bk; else query, key and value are one.
struct LayerPlaces {
  int scale1, shift1, wq, bq, wk, bk, wo, bo, scale2, shift2, wu, bu, wd, bd, end;
};

struct Places {
  int token, position;
  LayerPlaces layer[2];
  int scale, shift, wh, bh, size;
};

template <class N>
constexpr LayerPlaces layer_places(int at, bool last) {
  constexpr int D = N::D, FF = N::FF;
  LayerPlaces p{};
  p.scale1 = at, p.shift1 = p.scale1 + D;
  p.wq = p.shift1 + D;
  p.bq = p.wq + (last ? 1 : 3) * D * D;
  p.wk = last ? p.bq + D : p.wq + D * D;
  p.bk = last ? p.wk + 2 * D * D : p.bq + D;
  p.wo = last ? p.bk + 2 * D : p.bq + 3 * D;
  p.bo = p.wo + D * D;
  p.scale2 = p.bo + D, p.shift2 = p.scale2 + D;
  p.wu = p.shift2 + D, p.bu = p.wu + FF * D;
  p.wd = p.bu + FF, p.bd = p.wd + D * FF;
  p.end = p.bd + D;
  return p;
}

template <class N>
constexpr Places places() {
  Places p{};
  p.token = 0, p.position = N::V * N::D;
  p.layer[0] = layer_places<N>(p.position + N::T * N::D, false);
  p.layer[1] = layer_places<N>(p.layer[0].end, true);
  p.scale = p.layer[1].end, p.shift = p.scale + N::D;
  p.wh = p.shift + N::D, p.bh = p.wh + N::V * N::D;
  p.size = p.bh + N::V;
  return p;
}

// What a microbatch of S sequences keeps on chip; offsets in floats, after the parameters.
template <class N, int S>
struct Buffers {
  static constexpr int ROWS = S * N::T, D = N::D, FF = N::FF;
  // first layer, a row a token
  static constexpr int x0 = 0, n1 = x0 + ROWS * D, qkv = n1 + ROWS * D, p = qkv + ROWS * 3 * D;
  static constexpr int o = p + ROWS * N::KEYS, s = o + ROWS * D, n2 = s + ROWS * D;
  static constexpr int u = n2 + ROWS * D, slope = u + ROWS * FF, x1 = slope + ROWS * FF;
  // last layer: keys and values of every token, the rest a row a sequence
  static constexpr int n1b = x1 + ROWS * D, kv = n1b + ROWS * D, qb = kv + ROWS * 2 * D;
  static constexpr int pb = qb + S * D, ob = pb + S * N::KEYS, sb = ob + S * D;
  static constexpr int n2b = sb + S * D, ub = n2b + S * D, slope_b = ub + S * FF;
  static constexpr int x2 = slope_b + S * FF, nf = x2 + S * D, z = nf + S * D;
  // gradients; z becomes its own
  static constexpr int dx1 = z + S * N::V, dn = dx1 + ROWS * D, dqkv = dn + ROWS * D;
  static constexpr int du = dqkv + ROWS * 3 * D, ds = du + ROWS * FF;
  static constexpr int d_o = ds + ROWS * N::KEYS, dxb = d_o + ROWS * D, dnb = dxb + S * D;
  static constexpr int dqb = dnb + S * D;
  // mean and 1 / deviation of each norm's rows, and the sequences' losses
  static constexpr int stats = dqb + S * D;
  static constexpr int stats1 = stats, stats2 = stats1 + 2 * ROWS, stats1b = stats2 + 2 * ROWS;
  static constexpr int stats2b = stats1b + 2 * ROWS, stats_f = stats2b + 2 * S;
  static constexpr int loss = stats_f + 2 * S;
  static constexpr int size = (loss + S + 31) / 32 * 32;
};

constexpr int LANES = 256;             // partial sums of the gradient's norm
constexpr int CONTROL = 32;            // floats of AdamW's numbers and what a step found
constexpr int SHARED_80 = 163 * 1024;  // bytes a block may have: A100
constexpr int SHARED_90 = 227 * 1024;  // H100, B200

// Where a chip's buffers begin: after the parameters, at a whole block of 32 floats.
template <class N>
constexpr int buffers_begin() {
  return (places<N>().size + 31) / 32 * 32;
}

template <class N, int S>
constexpr int chip_floats() {
  return buffers_begin<N>() + Buffers<N, S>::size + LANES + CONTROL;
}

static_assert(4 * chip_floats<Tiny, 2>() <= SHARED_80, "two sequences of tiny on an A100");
static_assert(4 * chip_floats<Tiny, 4>() <= SHARED_90, "four on an H100");

}  // namespace cuda
}  // namespace compfast
