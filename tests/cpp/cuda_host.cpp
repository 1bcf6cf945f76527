// The steps of csrc/cuda on the host, for tests/test_cuda.py: every line of them but the launch.
#include <vector>

#include "../../csrc/cuda/step.h"

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
}
