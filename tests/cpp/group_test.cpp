// The worker pool with a step that only counts: every member reaches its step once, whatever the
// number of threads, alone or in a team of two; a stop, an exception from the caller and a diverged
// member are respected.
#include "group.h"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <thread>

using namespace compfast;

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (ok) return;
  failures++;
  std::printf("FAILED %s\n", what);
}

constexpr int64_t FLAT = 16, DIVERGING_SEED = 5, MANY = 100000;

// params[0] counts the steps. The workspace is scribbled on, so that sharing one would show; each
// half of the batch leaves its mark in its gradient.
double count_half(const PlanRecord& plan, const TaskStream&, const Member& member,
                  const Workspace& w, int64_t step, int half, float* gradient) {
  for (int64_t i = 0; i < plan.workspace_size; i++) w.values[i] = (float)member.seed;
  std::this_thread::sleep_for(std::chrono::microseconds(20));
  bool own = w.packed[0] == member.params[0];
  for (int64_t i = 0; i < plan.workspace_size; i++) own = own && w.values[i] == (float)member.seed;
  for (int64_t i = 0; i < plan.flat_size; i++) gradient[i] = (float)(2 * step + half);
  return own ? (double)(step + 1000 * half) : -1.0;
}

void count_pack(const PlanRecord&, const Member& member, const Workspace& w, int64_t) {
  w.packed[0] = member.params[0];
}

StepResult count_update(const PlanRecord& plan, const Optimizer&, const Member& member,
                        const Workspace& w, const double* sums, int64_t step) {
  bool both = sums[0] == (double)step && sums[1] == (double)(step + 1000);
  for (int64_t i = 0; i < plan.flat_size; i++)
    both =
        both && w.gradient[0][i] == (float)(2 * step) && w.gradient[1][i] == (float)(2 * step + 1);
  StepResult result;
  result.finite = both && (member.seed != DIVERGING_SEED || step < 3);
  result.loss = result.finite ? (float)step : std::numeric_limits<float>::quiet_NaN();
  if (result.finite) member.params[0] += 1.0f;
  return result;
}

float count_gradient(const PlanRecord& plan, const Member& member, const Workspace& w, const Given&,
                     int64_t count) {
  for (int64_t i = 0; i < plan.flat_size; i++) w.gradient[0][i] = (float)member.seed;
  return (float)count;
}

void count_outputs(const PlanRecord&, const Member& member, const Workspace&, const Given&,
                   int64_t count, float*, int32_t* best) {
  for (int64_t i = 0; i < count; i++) best[i] = (int32_t)member.seed;
}

const KernelTable KERNELS = {
    "counting",    1,       count_pack, count_half, count_update, count_gradient,
    count_outputs, nullptr, nullptr,    nullptr};

struct Fixture {
  explicit Fixture(int64_t members, int threads)
      : params(members * FLAT),
        moments(members * FLAT),
        step(members),
        status(members),
        seed(members),
        numbers(members * DECAYS, 1.0) {
    for (int64_t i = 0; i < members; i++) seed[i] = (uint64_t)i;
    PlanRecord plan;
    plan.flat_size = FLAT;
    plan.workspace_size = 64;
    plan.packed_size = 1;
    plan.batch = plan.ports.positions = plan.ports.vocabulary = 1;
    GroupArrays arrays;
    arrays.members = members;
    arrays.params = params.data();
    arrays.m = arrays.v = moments.data();
    arrays.step = step.data();
    arrays.status = status.data();
    arrays.seed = arrays.dropout_seed = seed.data();
    arrays.lr = arrays.weight_decay = arrays.clip = numbers.data();
    group = std::make_unique<Group>(KERNELS, plan, Optimizer(), TaskStream(), arrays, threads);
  }
  bool advance(int64_t until, const std::function<void(int64_t)>& poll) {
    const int64_t columns = until;
    loss.assign(step.size() * columns, -1.0f);
    norm = loss;
    return group->advance(until, 0, columns, loss.data(), norm.data(), poll);
  }
  std::vector<float> params, moments;
  std::vector<int64_t> step;
  std::vector<uint8_t> status;
  std::vector<uint64_t> seed;
  std::vector<double> numbers;
  std::vector<float> loss, norm;
  std::unique_ptr<Group> group;
};

void test_everyone_arrives(int64_t members, int threads) {
  Fixture f(members, threads);
  f.step[0] = 4;
  if (members > 2) f.status[2] = FROZEN;
  expect(!f.advance(50, [](int64_t) {}), "nothing asked for a stop");
  for (int64_t i = 0; i < members; i++) {
    const bool frozen = i == 2, diverging = i == DIVERGING_SEED;
    const int64_t first = i == 0 ? 4 : 0, last = frozen ? 0 : diverging ? 3 : 50;
    expect(f.step[i] == last, "step");
    expect(f.params[i * FLAT] == (float)(last - first), "steps done");
    expect(f.status[i] == (frozen ? FROZEN : diverging ? DIVERGED : ACTIVE), "status");
    for (int64_t t = 0; t < 50; t++) {
      const float want = t >= first && t < last ? (float)t : -1.0f, got = f.loss[i * 50 + t];
      expect(diverging && t == 3 ? got != got : got == want, "loss of a step");
    }
  }
}

// advance() forgets stops of the past, so the stop is asked for once it has begun to poll.
void test_a_stop_from_another_thread(int64_t members, int threads) {
  Fixture f(members, threads);
  std::atomic<bool> running{false};
  std::thread asker([&] {
    while (!running.load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    f.group->request_stop();
  });
  expect(f.advance(MANY, [&](int64_t) { running.store(true); }), "the stop was reported");
  asker.join();
  expect(f.step[0] > 0 && f.step[0] < MANY, "the stop came between two steps");
}

void test_an_exception_of_the_caller(int64_t members, int threads) {
  Fixture f(members, threads);
  bool thrown = false;
  try {
    f.advance(MANY, [](int64_t) { throw std::runtime_error("enough"); });
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  expect(thrown, "the caller's exception comes back");
  expect(f.params[0] == (float)f.step[0], "the workers finished their step");
}

void test_gradients_and_predictions(int threads) {
  Fixture f(9, threads);
  std::vector<float> loss(9), gradient(9 * FLAT);
  f.group->gradients({}, 3, loss.data(), gradient.data());
  const std::vector<int64_t> chosen = {8, 0, 3};
  std::vector<int32_t> best(3 * 2);
  f.group->outputs(chosen.data(), 3, {}, 2, nullptr, best.data());
  for (int64_t i = 0; i < 9; i++)
    expect(loss[i] == 3.0f && gradient[i * FLAT] == (float)i, "gradient of a member");
  for (int64_t i = 0; i < 6; i++) expect(best[i] == chosen[i / 2], "prediction of a member");
}

void test_a_profile_leaves_the_member_alone(int threads) {
  Fixture f(9, threads);
  f.step[4] = 2;
  f.params[4 * FLAT] = 2.0f;
  std::vector<float> loss(6), norm(6);
  double phases[PHASES], total = -1.0;
  const ProfileArrays out{nullptr, nullptr, phases, &total, loss.data(), norm.data()};
  expect(f.group->profile(4, 6, out) == 6, "steps of a profile");
  for (int64_t t = 0; t < 6; t++) expect(loss[t] == (float)(2 + t), "loss of a profiled step");
  expect(total > 0.0, "time of a profile");
  expect(f.step[4] == 2 && f.params[4 * FLAT] == 2.0f, "the member stays as it is");
  expect(f.group->profile(DIVERGING_SEED, 6, out) == 3, "a profile ends where it diverges");
  expect(f.status[DIVERGING_SEED] == ACTIVE, "status after a profile");
}

}  // namespace

int main() {
  for (int threads : {1, 2, 4}) {
    for (int64_t members : {1, 2, 3, 17}) {
      test_everyone_arrives(members, threads);
      test_a_stop_from_another_thread(members, threads);
      test_an_exception_of_the_caller(members, threads);
    }
    test_gradients_and_predictions(threads);
    test_a_profile_leaves_the_member_alone(threads);
  }
  std::printf("worker pool: %d failures\n", failures);
  return failures != 0;
}
