// The steps of csrc/cuda on the host, for tests/test_cuda.py: every line of them but the launch.
#include <vector>

#include "../../csrc/cuda/persistent.h"

namespace {

using namespace compfast;
using namespace compfast::cuda;

// Teams that take the items of a piece in another order: a piece in which one item reads what
// another writes gives other bits.
enum Order : int32_t { FORWARD, BACKWARD, STRIDED };

struct OrderedTeam {
  Order order;
  template <class F>
  void each(int count, const F& f) const {
    constexpr int STRIDE = 7;
    if (order == STRIDED)
      for (int start = 0; start < STRIDE; start++)
        for (int i = start; i < count; i += STRIDE) f(i);
    else
      for (int i = 0; i < count; i++) f(order == FORWARD ? i : count - 1 - i);
  }
};

// A kernel: the network, the sequences of its microbatch, and the parameters that it keeps on chip.
template <class N_, int S, int KEPT>
struct Variant {
  using N = N_;
  using One = Resident<N, S, KEPT>;
  static constexpr int FLOATS = chip_bytes<N, S>(KEPT) / 4;

  // A chip full of NaN
  struct Memory {
    std::vector<float> floats;
    Memory() : floats(FLOATS + 64, NAN) {}
    Chip<KEPT> chip(float* params) {
      const uintptr_t at = reinterpret_cast<uintptr_t>(floats.data());
      return {reinterpret_cast<float*>((at + 255) / 256 * 256), params};
    }
  };
};

// Each network as a GPU with 227 KiB a block has it; tiny with one sequence, whose rows are odd,
// and as an A100 has it.
template <class F>
void with_variant(int variant, const F& f) {
  constexpr int TINY = places<Tiny>().size, NARROW = places<Narrow>().size;
  constexpr int TWO = sequences<Tiny>(), FOUR = sequences<Narrow>();
  if (variant == 0) f(Variant<Tiny, TWO, TINY>{});
  if (variant == 1) f(Variant<Narrow, FOUR, NARROW>{});
  if (variant == 2) f(Variant<Tiny, 1, TINY>{});
  if (variant == 3) f(Variant<Tiny, TWO, kept_at<Tiny>(SHARED_80)>{});
}

}  // namespace

extern "C" {

// places [7 + 14 + 14]: see test_cuda.py
void cuda_places(int32_t network, int32_t* out) {
  with_network(network, [&](auto n) {
    constexpr Places p = places<decltype(n)>();
    for (int x : {p.token, p.position, p.scale, p.shift, p.wh, p.bh, p.size}) *out++ = x;
    for (const LayerPlaces& l : p.layer)
      for (int x : {l.scale1, l.shift1, l.wq, l.bq, l.wk, l.bk, l.wo, l.bo, l.scale2, l.shift2,
                    l.wu, l.bu, l.wd, l.bd})
        *out++ = x;
  });
}

// layers, T, D, H, FF, V, floats of a member, sequences of a microbatch; then what is kept on chip
// and the bytes of a block's shared memory, for 80 and for 90
void cuda_shape(int32_t network, int32_t* out) {
  with_network(network, [&](auto n) {
    using N = decltype(n);
    constexpr int S = sequences<N>(), A100 = kept_at<N>(SHARED_80), H100 = kept_at<N>(SHARED_90);
    for (int x :
         {(int)N::LAYERS, (int)N::T, (int)N::D, (int)N::H, (int)N::FF, (int)N::V,
          (int)places<N>().size, S, A100, chip_bytes<N, S>(A100), H100, chip_bytes<N, S>(H100)})
      *out++ = x;
  });
}

void cuda_gradient(int32_t variant, int32_t order, float* params, int32_t batch,
                   const int32_t* tokens, const int32_t* targets, float epsilon, float* g,
                   float* loss) {
  with_variant(variant, [&](auto v) {
    using V = decltype(v);
    const OrderedTeam team{(Order)order};
    typename V::Memory memory;
    const auto chip = memory.chip(params);
    V::One::load(team, chip);
    V::One::gradient(team, chip, batch, tokens, targets, epsilon, g);
    *loss = V::One::control(chip).loss;
  });
}

int64_t cuda_train(int32_t variant, int32_t order, const int32_t* pairs, int32_t pair_count,
                   const int32_t* combos, int32_t combo_count, int32_t item_low, int32_t item_count,
                   int32_t words, const double* scale, const double* offset,
                   const double* correction1, const double* correction2, const double* decay,
                   const uint8_t* decay_columns, const int32_t* form, double beta1, double beta2,
                   double eps, double momentum, float epsilon, int32_t batch, uint64_t seed,
                   const double* weight_decay, double lr, double clip, float* params, float* m,
                   float* v, float* g, int32_t* tokens, int32_t* targets, int64_t step,
                   int64_t until, float* loss, float* norm, uint8_t* status) {
  int64_t reached = -1;
  with_variant(variant, [&](auto one) {
    using V = decltype(one);
    Course course;
    course.stream = {pairs,   pair_count, combos, combo_count, item_low, item_count,
                     V::N::T, words,      0};
    course.optimizer = {beta1,       beta2, eps,     scale,    offset, correction1,
                        correction2, decay, form[0], momentum, form[1]};
    course.decay_columns = decay_columns;
    course.batch = batch;
    course.epsilon = epsilon;
    const Life life{m, v, g, tokens, targets, seed, 0, weight_decay, lr, clip};
    typename V::Memory memory;
    reached = V::One::train(OrderedTeam{(Order)order}, memory.chip(params), course, life, step,
                            until, loss, norm, status);
  });
  return reached;
}

// A launch of persistent.cu, one member after another. shared: pairs, combos, scale, offset,
// correction1, correction2, decay, decay_columns, then tokens and targets of what the host drew, or
// null; sizes: pairs, combos, item_low, item_count, words, group_size, batch, members, base, until,
// kind, nesterov, first, steps; reals: beta1, beta2, eps, momentum, epsilon; rows: as in Members.
void cuda_launch(int32_t network, void* const* shared, const int64_t* sizes, const double* reals,
                 void* const* rows) {
  const auto table = [=](int i) { return static_cast<const double*>(shared[i]); };
  const auto floats = [=](int i) { return static_cast<float*>(rows[i]); };
  const auto whole = [=](int i) { return static_cast<int32_t*>(rows[i]); };
  const auto real = [=](int i) { return static_cast<const double*>(rows[i]); };
  const Members all{floats(0),
                    floats(1),
                    floats(2),
                    floats(3),
                    whole(4),
                    whole(5),
                    static_cast<const uint64_t*>(rows[6]),
                    whole(7),
                    real(8),
                    real(9),
                    real(10),
                    static_cast<int64_t*>(rows[11]),
                    static_cast<uint8_t*>(rows[12]),
                    floats(13),
                    floats(14)};
  const int64_t base = sizes[8], until = sizes[9];
  with_variant(network, [&](auto v) {
    using V = decltype(v);
    using N = typename V::N;
    Course course;
    course.stream = {static_cast<const int32_t*>(shared[0]),
                     (int32_t)sizes[0],
                     static_cast<const int32_t*>(shared[1]),
                     (int32_t)sizes[1],
                     (int32_t)sizes[2],
                     (int32_t)sizes[3],
                     N::T,
                     (int32_t)sizes[4],
                     sizes[5]};
    course.given = {static_cast<const int32_t*>(shared[8]), static_cast<const int32_t*>(shared[9]),
                    sizes[12], sizes[13]};
    course.optimizer = {reals[0],           reals[1], reals[2],          table(2),
                        table(3),           table(4), table(5),          table(6),
                        (int32_t)sizes[10], reals[3], (int32_t)sizes[11]};
    course.decay_columns = static_cast<const uint8_t*>(shared[7]);
    course.batch = (int32_t)sizes[6];
    course.epsilon = (float)reals[4];
    for (int64_t i = 0; i < sizes[7]; i++) {
      if (all.status[i] != RUNS || all.step[i] >= until) continue;
      const int64_t row = i * places<N>().size, first = i * course.batch, step = all.step[i];
      const Life life{
          all.m + row,         all.v + row,  all.gradient + row, all.tokens + first * N::T,
          all.targets + first, all.seeds[i], all.slots[i],       all.weight_decay + i * DECAYS,
          all.lr[i],           all.clip[i]};
      const int64_t at = i * (until - base) + step - base;
      typename V::Memory memory;
      all.step[i] = V::One::train(OrderedTeam{FORWARD}, memory.chip(all.params + row), course, life,
                                  step, until, all.loss + at, all.norm + at, all.status + i);
    }
  });
}
}
