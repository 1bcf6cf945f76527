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

template <int S>
struct Memory {
  std::vector<float> floats;
  Memory() : floats(chip_floats<Tiny, S>() + 64, NAN) {}
  Chip chip() {
    const uintptr_t at = reinterpret_cast<uintptr_t>(floats.data());
    return Chip{reinterpret_cast<float*>((at + 255) / 256 * 256)};
  }
};

template <int S>
void gradient(Order order, const float* params, int batch, const int32_t* tokens,
              const int32_t* targets, float epsilon, float* g, float* loss) {
  using One = Resident<Tiny, S>;
  const OrderedTeam team{order};
  Memory<S> memory;
  const Chip chip = memory.chip();
  One::load(team, chip, params);
  One::gradient(team, chip, batch, tokens, targets, epsilon, g);
  *loss = One::control(chip).loss;
}

template <int S>
int64_t train(Order order, const Course& course, const Life& life, int64_t step, int64_t until,
              float* loss, float* norm, uint8_t* status) {
  Memory<S> memory;
  return Resident<Tiny, S>::train(OrderedTeam{order}, memory.chip(), course, life, step, until,
                                  loss, norm, status);
}

}  // namespace

extern "C" {

// places [16 + 14 + 14]: see test_cuda.py
void cuda_places(int32_t* out) {
  constexpr Places p = places<Tiny>();
  for (int x : {p.token, p.position, p.scale, p.shift, p.wh, p.bh, p.size}) *out++ = x;
  for (const LayerPlaces& l : p.layer)
    for (int x : {l.scale1, l.shift1, l.wq, l.bq, l.wk, l.bk, l.wo, l.bo, l.scale2, l.shift2, l.wu,
                  l.bu, l.wd, l.bd})
      *out++ = x;
}

void cuda_gradient(int32_t sequences, int32_t order, const float* params, int32_t batch,
                   const int32_t* tokens, const int32_t* targets, float epsilon, float* g,
                   float* loss) {
  auto* run = sequences == 4 ? gradient<4> : sequences == 2 ? gradient<2> : gradient<1>;
  run((Order)order, params, batch, tokens, targets, epsilon, g, loss);
}

int64_t cuda_train(int32_t sequences, int32_t order, const int32_t* pairs, int32_t pair_count,
                   const int32_t* combos, int32_t combo_count, int32_t item_low, int32_t item_count,
                   int32_t words, const double* scale, const double* offset,
                   const double* correction1, const double* correction2, double beta1, double beta2,
                   double eps, float epsilon, int32_t batch, uint64_t seed, double lr,
                   double weight_decay, double clip, float* params, float* m, float* v, float* g,
                   int32_t* tokens, int32_t* targets, int64_t step, int64_t until, float* loss,
                   float* norm, uint8_t* status) {
  Course course;
  course.stream = {pairs, pair_count, combos, combo_count, item_low, item_count, Tiny::T, words, 0};
  course.optimizer = {beta1, beta2, eps, scale, offset, correction1, correction2};
  course.batch = batch;
  course.epsilon = epsilon;
  const Life life{params, m, v, g, tokens, targets, seed, lr, weight_decay, clip};
  auto* run = sequences == 4 ? train<4> : sequences == 2 ? train<2> : train<1>;
  return run((Order)order, course, life, step, until, loss, norm, status);
}

// layers, T, D, FF, V, floats of a member, bytes of a block's shared memory for 2 and 4 sequences
void cuda_shape(int32_t* out) {
  for (int x : {(int)Tiny::LAYERS, (int)Tiny::T, (int)Tiny::D, (int)Tiny::FF, (int)Tiny::V,
                (int)places<Tiny>().size, 4 * chip_floats<Tiny, 2>(), 4 * chip_floats<Tiny, 4>()})
    *out++ = x;
}

// A launch of persistent.cu, one member after another. shared: pairs, combos, scale, offset,
// correction1, correction2; sizes: pairs, combos, item_low, item_count, words, group_size, batch,
// members, base, until; reals: beta1, beta2, eps, epsilon; rows: as in Members.
void cuda_launch(int32_t sequences, void* const* shared, const int64_t* sizes, const double* reals,
                 void* const* rows) {
  const auto table = [=](int i) { return static_cast<const double*>(shared[i]); };
  Course course;
  course.stream = {static_cast<const int32_t*>(shared[0]),
                   (int32_t)sizes[0],
                   static_cast<const int32_t*>(shared[1]),
                   (int32_t)sizes[1],
                   (int32_t)sizes[2],
                   (int32_t)sizes[3],
                   Tiny::T,
                   (int32_t)sizes[4],
                   sizes[5]};
  course.optimizer = {reals[0], reals[1], reals[2], table(2), table(3), table(4), table(5)};
  course.batch = (int32_t)sizes[6];
  course.epsilon = (float)reals[3];
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
                    real(7),
                    real(8),
                    real(9),
                    static_cast<int64_t*>(rows[10]),
                    static_cast<uint8_t*>(rows[11]),
                    floats(12),
                    floats(13)};
  const int64_t base = sizes[8], until = sizes[9];
  auto* run = sequences == 4 ? train<4> : sequences == 2 ? train<2> : train<1>;
  for (int64_t i = 0; i < sizes[7]; i++) {
    if (all.status[i] != RUNS || all.step[i] >= until) continue;
    const int64_t row = i * places<Tiny>().size, first = i * course.batch, step = all.step[i];
    const Life life{all.params + row,
                    all.m + row,
                    all.v + row,
                    all.gradient + row,
                    all.tokens + first * Tiny::T,
                    all.targets + first,
                    all.seeds[i],
                    all.lr[i],
                    all.weight_decay[i],
                    all.clip[i]};
    const int64_t at = i * (until - base) + step - base;
    all.step[i] =
        run(FORWARD, course, life, step, until, all.loss + at, all.norm + at, all.status + i);
  }
}
}
