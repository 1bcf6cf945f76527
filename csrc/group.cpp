#include "group.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

#include "checks.h"
#include "decode_memory.h"
#include "profile.h"
#include "worker_memory.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace compfast {

namespace {

// Round to nearest, subnormals are zero: whatever the calling thread had set.
void set_floating_mode() {
#if defined(__x86_64__)
  _mm_setcsr(0x9FC0);
#elif defined(__aarch64__)
  const uint64_t flush = 1u << 24;
  asm volatile("msr fpcr, %0" ::"r"(flush));
#endif
}

// Two threads meet; both spin, since the other is at most a fraction of a step away.
class Barrier {
 public:
  void wait() {
    const unsigned phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == 1) {
      arrived_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++)
      if (spins > 4096) std::this_thread::yield();
  }

 private:
  std::atomic<unsigned> arrived_{0}, phase_{0};
};

}  // namespace

struct Group::Worker : WorkerMemory {
  using WorkerMemory::WorkerMemory;
};

struct Group::Call {
  int64_t until, base, columns;
  float *loss, *grad_norm;
  std::atomic<int64_t> done;
};

struct Group::Team {
  Worker* second = nullptr;
  Barrier barrier;
  double sums[2] = {};
  bool go_on = false;
};

Group::Group(const KernelTable& kernels, const PlanRecord& plan, const Optimizer& optimizer,
             const TaskStream& stream, const GroupArrays& arrays, int threads)
    : kernels_(kernels), plan_(plan), optimizer_(optimizer), stream_(stream), arrays_(arrays) {
  require_room(times(threads, Worker::size(plan_)), sizeof(float));
  for (int i = 0; i < threads; i++) workers_.push_back(std::make_unique<Worker>(plan_));
}

Group::~Group() = default;

Member Group::member(int64_t i) const {
  Member member;
  member.params = arrays_.params + i * plan_.flat_size;
  member.m = arrays_.m + i * plan_.flat_size;
  member.v = arrays_.v + i * plan_.flat_size;
  member.seed = arrays_.seed[i];
  member.dropout_seed = arrays_.dropout_seed[i];
  member.row = i;
  member.lr = arrays_.lr[i];
  member.weight_decay = arrays_.weight_decay + i * DECAYS;
  member.clip = arrays_.clip[i];
  return member;
}

// Runs `body` once a worker, each on its own thread; `wait` runs on the calling thread about ten
// times a second until the last is done. When it throws, the workers are told to stop.
// False when the system grants fewer threads than there are workers: then nothing has run, the
// workers without a thread are given up, and the caller tries again with the others.
bool Group::run_workers(const std::function<void(size_t)>& body,
                        const std::function<void()>& wait) {
  std::mutex mutex;
  std::condition_variable gate, finished;
  enum { WAIT, GO, LEAVE } order = WAIT;
  size_t running = workers_.size();
  std::exception_ptr error;
  std::vector<std::thread> threads;
  threads.reserve(running);
  try {
    while (threads.size() < workers_.size())
      threads.emplace_back([&, index = threads.size()] {
        {
          std::unique_lock<std::mutex> lock(mutex);
          gate.wait(lock, [&] { return order != WAIT; });
          if (order == LEAVE) return;
        }
        set_floating_mode();
        std::exception_ptr own;
        try {
          body(index);
        } catch (...) {
          own = std::current_exception();
          stop_.store(true);
        }
        std::lock_guard<std::mutex> lock(mutex);
        if (own && !error) error = own;
        running--;
        finished.notify_one();
      });
  } catch (const std::system_error&) {
  } catch (const std::bad_alloc&) {
  }
  const bool granted = threads.size() == workers_.size();
  {
    std::lock_guard<std::mutex> lock(mutex);
    order = granted ? GO : LEAVE;
  }
  gate.notify_all();
  if (!granted) {
    for (std::thread& thread : threads) thread.join();
    if (threads.empty()) throw std::bad_alloc();
    workers_.resize(threads.size());
    return false;
  }
  bool asking = bool(wait);
  std::unique_lock<std::mutex> lock(mutex);
  while (!finished.wait_for(lock, std::chrono::milliseconds(100), [&] { return running == 0; })) {
    lock.unlock();
    std::exception_ptr own;
    try {
      if (asking) wait();
    } catch (...) {
      own = std::current_exception();
      asking = false;
      stop_.store(true);
    }
    lock.lock();
    if (own && !error) error = own;
  }
  lock.unlock();
  for (std::thread& thread : threads) thread.join();
  if (error) std::rethrow_exception(error);
  return true;
}

// Jobs are handed out in order; which worker takes one changes no bit.
void Group::parallel(int64_t count, const std::function<void(int64_t, Worker&)>& job,
                     const std::function<void()>& wait) {
  std::atomic<int64_t> next{0};
  const auto body = [&](size_t index) {
    for (int64_t i; (i = next.fetch_add(1)) < count;) job(i, *workers_[index]);
  };
  while (!run_workers(body, wait)) {
  }
}

// Writes down a step; false when the member has no further step to take.
bool Group::record(int64_t i, const StepResult& result, Call& call) {
  int64_t& step = arrays_.step[i];
  call.loss[i * call.columns + step - call.base] = result.loss;
  call.grad_norm[i * call.columns + step - call.base] = result.grad_norm;
  if (result.finite)
    step++;
  else
    arrays_.status[i] = DIVERGED;
  call.done.fetch_add(1, std::memory_order_relaxed);
  return result.finite && step < call.until && !stop_.load();
}

StepResult Group::step_alone(const Member& one, const Workspace& view, int64_t step) {
  double sums[2];
  kernels_.pack(plan_, one, view, step);
  for (int half = 0; half < 2; half++)
    sums[half] = kernels_.half(plan_, stream_, one, view, step, half, view.gradient[half]);
  return kernels_.update(plan_, optimizer_, one, view, sums, step);
}

void Group::train_alone(int64_t i, Worker& worker, Call& call) {
  if (stop_.load()) return;
  const Member one = member(i);
  StepResult result;
  do {
    result = step_alone(one, worker.view, arrays_.step[i]);
  } while (record(i, result, call));
}

// Two workers, half a batch each (neither may throw: the other would wait for ever); the first adds
// the halves and takes the optimiser step.
void Group::train_together(int64_t i, Team& team, int rank, Worker& worker, Call& call) {
  const Member one = member(i);
  Workspace both = worker.view;
  if (rank == 0) {
    both.gradient[1] = team.second->view.gradient[1];
    team.go_on = !stop_.load();
  }
  team.barrier.wait();
  while (team.go_on) {
    const int64_t step = arrays_.step[i];
    kernels_.pack(plan_, one, worker.view, step);
    team.sums[rank] =
        kernels_.half(plan_, stream_, one, worker.view, step, rank, worker.view.gradient[rank]);
    team.barrier.wait();
    if (rank == 0) {
      const StepResult result = kernels_.update(plan_, optimizer_, one, both, team.sums, step);
      team.go_on = record(i, result, call);
    }
    team.barrier.wait();
  }
}

bool Group::advance(int64_t until, int64_t base, int64_t columns, float* loss, float* grad_norm,
                    const std::function<void(int64_t)>& poll) {
  stop_.store(false);
  Call call{until, base, columns, loss, grad_norm, {0}};
  std::vector<int64_t> active;
  for (int64_t i = 0; i < arrays_.members; i++)
    if (arrays_.status[i] == ACTIVE && arrays_.step[i] < until) active.push_back(i);
  const auto wait = [&] { poll(call.done.load()); };
  bool done = false;
  while (!done && active.size() <= workers_.size() / 2) {
    std::vector<Team> pairs(active.size());
    for (size_t t = 0; t < pairs.size(); t++) pairs[t].second = workers_[2 * t + 1].get();
    done = run_workers(
        [&](size_t index) {
          const size_t t = index / 2;
          if (t < pairs.size())
            train_together(active[t], pairs[t], (int)(index % 2), *workers_[index], call);
        },
        wait);
  }
  if (!done)
    parallel((int64_t)active.size(),
             [&](int64_t a, Worker& worker) { train_alone(active[a], worker, call); }, wait);
  for (int64_t i : active)
    if (arrays_.status[i] == ACTIVE && arrays_.step[i] < until) return true;
  return false;
}

int64_t Group::profile(int64_t i, int64_t steps, const ProfileArrays& out) {
  const int64_t size = plan_.flat_size;
  const auto copy = allocate<float>(3 * size);
  Member one = member(i);
  float** const parts[] = {&one.params, &one.m, &one.v};
  for (int part = 0; part < 3; part++) {
    std::memcpy(copy.get() + part * size, *parts[part], size * sizeof(float));
    *parts[part] = copy.get() + part * size;
  }
  std::vector<int64_t> spent(2 * plan_.op_count + PHASES);
  const Profile counters{spent.data(), spent.data() + plan_.op_count,
                         spent.data() + 2 * plan_.op_count};
  Worker worker(plan_);
  worker.view.profile = &counters;
  int64_t done = 0, all = 0;
  double seconds = 0;
  const auto run = [&] {
    set_floating_mode();
    const auto begin = std::chrono::steady_clock::now();
    const int64_t first = ticks();
    for (StepResult result; done < steps; done++) {
      result = step_alone(one, worker.view, arrays_.step[i] + done);
      out.loss[done] = result.loss;
      out.grad_norm[done] = result.grad_norm;
      if (!result.finite) break;
    }
    all = ticks() - first;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  };
  try {  // a thread of its own: the caller's floating-point mode stays as it is
    std::thread(run).join();
  } catch (const std::system_error&) {
    throw std::bad_alloc();
  }
  const double tick = all > 0 ? seconds / (double)all : 0.0;
  for (int32_t op = 0; op < plan_.op_count; op++) {
    out.forward[op] = (double)counters.forward[op] * tick;
    out.backward[op] = (double)counters.backward[op] * tick;
  }
  for (int phase = 0; phase < PHASES; phase++)
    out.phases[phase] = (double)counters.phases[phase] * tick;
  *out.total = seconds;
  return done;
}

void Group::gradients(const Given& batch, int64_t count, float* loss, float* gradient) {
  parallel(
      arrays_.members,
      [&](int64_t i, Worker& worker) {
        loss[i] = kernels_.gradient(plan_, member(i), worker.view, batch, count);
        std::memcpy(gradient + i * plan_.flat_size, worker.gradient.get(),
                    plan_.flat_size * sizeof(float));
      },
      nullptr);
}

void Group::outputs(const int64_t* members, int64_t n, const Given& batch, int64_t count,
                    float* out, int32_t* best) {
  const int64_t asked = count * plan_.ports.asked;
  parallel(
      n,
      [&](int64_t i, Worker& worker) {
        float* rows = out ? out + i * asked * plan_.ports.vocabulary : nullptr;
        int32_t* top = best ? best + i * asked : nullptr;
        kernels_.outputs(plan_, member(members[i]), worker.view, batch, count, rows, top);
      },
      nullptr);
}

void Group::generate(const PlanRecord& plan, const int64_t* members, int64_t n,
                     const PromptRecord& prompts, int32_t* told,
                     const std::function<void()>& poll) {
  const int64_t each = DECODE_TURNS * decode_rows(plan, prompts.length);
  const int64_t parts = (prompts.count + each - 1) / each;
  std::atomic<bool> over{false};
  parallel(
      times(n, parts),
      [&](int64_t job, Worker&) {
        if (over.load()) return;
        const int64_t i = job / parts, first = job % parts * each;
        const int64_t end = std::min(prompts.count, first + each);
        const Decoding memory(plan, prompts.length, end - first);
        kernels_.generate(plan, member(members[i]), memory.view, prompts, first, end,
                          told + i * prompts.count * prompts.max_new);
      },
      [&] {
        try {
          poll();
        } catch (...) {
          over.store(true);
          throw;
        }
      });
}

}  // namespace compfast
