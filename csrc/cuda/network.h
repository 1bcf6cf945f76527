// Networks that one thread block can hold: two pre-norm layers, heads side by side as wide as the
// model, GELU, biases everywhere, a final norm, the loss at the last position. All sizes are known
// to the compiler; the flat vector is that of compfast/engines/layout.py (tests/test_cuda.py
// compares).
#pragma once

#include <cstdint>

namespace compfast {
namespace cuda {

template <int T_, int D_, int H_, int FF_, int V_>
struct Network {
  static constexpr int LAYERS = 2, T = T_, D = D_, H = H_, FF = FF_, V = V_;
  static constexpr int HEAD = D / H;
  static constexpr int KEYS = (T + 3) / 4 * 4;  // floats a row of one head's probabilities
  static_assert(D % 16 == 0 && FF % 16 == 0 && V % 16 == 0, "layout.py pads nothing");
  static_assert(D % H == 0 && HEAD % 4 == 0, "a head is whole groups of four");
};

using Tiny = Network<9, 48, 2, 96, 48>;     // compfast.Config(), the preset tiny
using Narrow = Network<9, 32, 1, 64, 112>;  // ModelConfig() on TaskConfig(): 80 items

// f(Tiny{}) or f(Narrow{}): the networks that there is code for, by their index.
constexpr int NETWORKS = 2;
template <class F>
auto with_network(int index, const F& f) {
  return index == 0 ? f(Tiny{}) : f(Narrow{});
}

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

// What a microbatch of S sequences keeps on chip; offsets in floats, after the parameters. A
// gradient takes the place of what is no longer read: of x1, x2, o, n and the slope.
template <class N, int S>
struct Buffers {
  static constexpr int ROWS = S * N::T, D = N::D, FF = N::FF, P = N::H * N::KEYS;
  // a row a token; n: what the last norm gave
  static constexpr int x0 = 0, qkv = x0 + ROWS * D, p = qkv + ROWS * 3 * D, ds = p + ROWS * P;
  static constexpr int o = ds + ROWS * P, s = o + ROWS * D, x1 = s + ROWS * D, n = x1 + ROWS * D;
  // One place for three pairs that never live together: the first FFN and its slopes (made anew
  // for the backward pass), the last layer's keys and values and their gradient, and the gradient
  // of the first layer's queries, keys and values.
  static constexpr int wide = n + ROWS * D, u = wide, slope = u + ROWS * FF;
  static constexpr int kv = wide, dkv = kv + ROWS * 2 * D, dqkv = wide;
  static constexpr int after = wide + ROWS * (2 * FF > 4 * D ? 2 * FF : 4 * D);
  // a row a sequence; z becomes its own gradient
  static constexpr int qb = after, pb = qb + S * D, ob = pb + S * P, sb = ob + S * D;
  static constexpr int nb = sb + S * D, ub = nb + S * D, slope_b = ub + S * FF;
  static constexpr int x2 = slope_b + S * FF, nf = x2 + S * D, dqb = nf, z = nf + S * D;
  // mean and 1 / deviation of each norm's rows, and the sequences' losses
  static constexpr int stats1 = z + S * N::V, stats2 = stats1 + 2 * ROWS;
  static constexpr int stats1b = stats2 + 2 * ROWS, stats2b = stats1b + 2 * ROWS;
  static constexpr int stats_f = stats2b + 2 * S, loss = stats_f + 2 * S;
  static constexpr int size = (loss + S + 31) / 32 * 32;
};

constexpr int LANES = 256;             // partial sums of the gradient's norm
constexpr int CONTROL = 32;            // floats of the optimiser's numbers and what a step found
constexpr int SHARED_80 = 163 * 1024;  // bytes a block may have: A100
constexpr int SHARED_90 = 227 * 1024;  // H100, B200

// Where a chip's buffers begin: after `kept` parameters, at a whole block of 32 floats.
constexpr int buffers_begin(int kept) { return (kept + 31) / 32 * 32; }

template <class N, int S>
constexpr int chip_bytes(int kept) {
  return 4 * (buffers_begin(kept) + Buffers<N, S>::size + LANES + CONTROL);
}

// Sequences of a microbatch: the most, by halves of eight, with which an H100 keeps everything.
// The same on every GPU.
template <class N, int S = 8>
constexpr int sequences() {
  if constexpr (S == 1 || chip_bytes<N, S>(places<N>().size) <= SHARED_90)
    return S;
  else
    return sequences<N, S / 2>();
}

// How many of the flat vector's first floats fit on a chip of so many bytes beside the buffers, cut
// between two tensors; none: 0. The others stay in the member's row of device memory: those at the
// end are read least often, a row a sequence.
template <class N, int S>
constexpr int kept(int shared) {
  constexpr Places p = places<N>();
  constexpr LayerPlaces last = p.layer[1];
  for (int cut : {p.size, p.wh, last.wd, last.wu, last.wo})
    if (chip_bytes<N, S>(cut) <= shared) return cut;
  return 0;
}

template <class N>
constexpr int kept_at(int shared) {
  return kept<N, sequences<N>()>(shared);
}

static_assert(sequences<Tiny>() == 2 && kept_at<Tiny>(SHARED_90) == places<Tiny>().size, "H100");
static_assert(kept_at<Tiny>(SHARED_80) == places<Tiny>().layer[1].wo, "A100: up to the last Wo");
static_assert(sequences<Narrow>() == 4 && kept_at<Narrow>(SHARED_80) == places<Narrow>().size, "");

}  // namespace cuda
}  // namespace compfast
