#include "group.h"

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace compfast {

namespace {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

template <typename T>
std::unique_ptr<T[], FreeDeleter> allocate(int64_t count) {
  const size_t bytes = ((size_t)count * sizeof(T) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes ? bytes : 64);
  if (!p) throw std::bad_alloc();
  std::memset(p, 0, bytes);
  return std::unique_ptr<T[], FreeDeleter>(static_cast<T*>(p));
}

// Round to nearest, subnormals are zero: whatever the calling thread had set.
void set_floating_mode() {
#if defined(__x86_64__)
  _mm_setcsr(0x9FC0);
#elif defined(__aarch64__)
  const uint64_t flush = 1u << 24;
  asm volatile("msr fpcr, %0" ::"r"(flush));
#endif
}

}  // namespace

struct Group::Worker {
  explicit Worker(const PlanRecord& plan)
      : values(allocate<float>(plan.workspace_size)),
        packed(allocate<float>(plan.packed_size)),
        gradient(allocate<float>(plan.flat_size)),
        scratch(allocate<float>(plan.scratch_size)),
        tokens(allocate<int32_t>((int64_t)plan.batch * plan.positions)),
        targets(allocate<int32_t>(plan.batch)) {
    view = {values.get(), packed.get(), gradient.get(), scratch.get(), tokens.get(), targets.get()};
  }
  std::unique_ptr<float[], FreeDeleter> values, packed, gradient, scratch;
  std::unique_ptr<int32_t[], FreeDeleter> tokens, targets;
  Workspace view;
};

Group::Group(const KernelTable& kernels, const PlanRecord& plan, const Optimizer& optimizer,
             const AnchorStream& stream, const GroupArrays& arrays, int threads)
    : kernels_(kernels), plan_(plan), optimizer_(optimizer), stream_(stream), arrays_(arrays) {
  for (int i = 0; i < threads; i++) workers_.push_back(std::make_unique<Worker>(plan_));
}

Group::~Group() = default;

Member Group::member(int64_t i) const {
  Member member;
  member.params = arrays_.params + i * plan_.flat_size;
  member.m = arrays_.m + i * plan_.flat_size;
  member.v = arrays_.v + i * plan_.flat_size;
  member.seed = arrays_.seed[i];
  member.lr = arrays_.lr[i];
  member.weight_decay = arrays_.weight_decay[i];
  member.clip = arrays_.clip[i];
  return member;
}

// Jobs are handed out in order; which worker takes one changes no bit. `wait` runs on the
// calling thread about ten times a second until the last worker is done.
void Group::parallel(int64_t count, const std::function<void(int64_t, Worker&)>& job,
                     const std::function<void()>& wait) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::condition_variable finished;
  size_t running = workers_.size();
  std::vector<std::thread> threads;
  for (auto& worker : workers_)
    threads.emplace_back([&, w = worker.get()] {
      set_floating_mode();
      for (int64_t i; (i = next.fetch_add(1)) < count;) job(i, *w);
      std::lock_guard<std::mutex> lock(mutex);
      running--;
      finished.notify_one();
    });
  std::exception_ptr error;
  std::unique_lock<std::mutex> lock(mutex);
  while (!finished.wait_for(lock, std::chrono::milliseconds(100), [&] { return running == 0; })) {
    lock.unlock();
    try {
      if (!error && wait) wait();
    } catch (...) {
      error = std::current_exception();
      stop_.store(true);
    }
    lock.lock();
  }
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
}

bool Group::advance(int64_t until, int64_t base, int64_t columns, float* loss, float* grad_norm,
                    const std::function<void(int64_t)>& poll) {
  stop_.store(false);
  std::atomic<int64_t> done{0};
  parallel(
      arrays_.members,
      [&](int64_t i, Worker& worker) {
        const Member one = member(i);
        int64_t& step = arrays_.step[i];
        while (arrays_.status[i] == ACTIVE && step < until && !stop_.load()) {
          const StepResult result =
              kernels_.step(plan_, optimizer_, stream_, one, worker.view, step);
          loss[i * columns + step - base] = result.loss;
          grad_norm[i * columns + step - base] = result.grad_norm;
          if (result.finite)
            step++;
          else
            arrays_.status[i] = DIVERGED;
          done.fetch_add(1, std::memory_order_relaxed);
        }
      },
      [&] { poll(done.load()); });
  for (int64_t i = 0; i < arrays_.members; i++)
    if (arrays_.status[i] == ACTIVE && arrays_.step[i] < until) return true;
  return false;
}

void Group::gradients(const int32_t* tokens, const int32_t* targets, int64_t count, float* loss,
                      float* gradient) {
  parallel(
      arrays_.members,
      [&](int64_t i, Worker& worker) {
        loss[i] = kernels_.gradient(plan_, member(i), worker.view, tokens, targets, count);
        std::memcpy(gradient + i * plan_.flat_size, worker.gradient.get(),
                    plan_.flat_size * sizeof(float));
      },
      nullptr);
}

void Group::logits(const int64_t* members, int64_t n, const int32_t* tokens, int64_t count,
                   float* out, int32_t* best) {
  parallel(
      n,
      [&](int64_t i, Worker& worker) {
        float* rows = out ? out + i * count * plan_.vocabulary : nullptr;
        int32_t* top = best ? best + i * count : nullptr;
        kernels_.logits(plan_, member(members[i]), worker.view, tokens, count, rows, top);
      },
      nullptr);
}

}  // namespace compfast
