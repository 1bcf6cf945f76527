// Peak arithmetic and read bandwidth: the loops of loop_table.h on several threads at once, pinned
// no more than the worker pool's are. A figure is the best of ROUNDS rounds of some milliseconds.
#include "bindings_roofline.h"

#include <pybind11/stl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "checks.h"
#include "isa.h"
#include "loop_table.h"

namespace py = pybind11;

namespace compfast {

namespace {

constexpr int ROUNDS = 7;
constexpr double ROUND_SECONDS = 0.02;
constexpr int64_t MOST_THREADS = 4096;

using Clock = std::chrono::steady_clock;

const LoopTable& loops() {
  const char* forced = std::getenv("COMPFAST_ISA");
  return *select_kernels(forced ? forced : "").loops;
}

double seconds_of(const std::function<float(int64_t)>& loop, int64_t count) {
  const auto begin = Clock::now();
  volatile float sink = loop(count);
  (void)sink;
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Runs make(thread)(count) on all threads at once, `count` chosen so that a round takes about
// ROUND_SECONDS; returns counts a second, all threads together, of the best round: from the first
// thread's start to the last one's end. std::bad_alloc where the system grants too few threads.
double best_rate(int threads, const std::function<std::function<float(int64_t)>(int)>& make) {
  std::vector<std::function<float(int64_t)>> loop(threads);
  std::vector<Clock::time_point> begin(threads), end(threads);
  int64_t count = 1;
  double best = 0;
  for (int round = -1; round < ROUNDS; round++) {
    std::atomic<int> ready{0}, awaited{threads};
    std::atomic<bool> failed{false};
    const auto run = [&](int t) {
      try {
        if (round < 0) loop[t] = make(t);  // memory is touched first by the thread that reads it
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      ready.fetch_add(1);
      while (ready.load() < awaited.load()) std::this_thread::yield();
      if (failed) return;
      begin[t] = Clock::now();
      volatile float sink = loop[t](count);
      (void)sink;
      end[t] = Clock::now();
    };
    std::vector<std::thread> running;
    try {
      while ((int)running.size() < threads) running.emplace_back(run, (int)running.size());
    } catch (const std::exception&) {
      failed = true;
      awaited = (int)running.size();
    }
    for (std::thread& thread : running) thread.join();
    if (failed) throw std::bad_alloc();
    if (round < 0) {
      double took;
      while ((took = seconds_of(loop[0], count)) < ROUND_SECONDS / 4) count *= 2;
      count = std::max<int64_t>(1, (int64_t)((double)count * ROUND_SECONDS / took));
      continue;
    }
    const auto first = *std::min_element(begin.begin(), begin.end());
    const auto last = *std::max_element(end.begin(), end.end());
    const double seconds = std::chrono::duration<double>(last - first).count();
    best = std::max(best, (double)count * threads / seconds);
  }
  return best;
}

double fma_peak(int threads) {
  require_between("threads", threads, 1, MOST_THREADS);
  const LoopTable& table = loops();
  py::gil_scoped_release release;
  return best_rate(threads, [&](int) { return table.fma; }) * table.fma_flops / 1e9;
}

std::optional<double> bf16_peak(int threads) {
  require_between("threads", threads, 1, MOST_THREADS);
  const LoopTable& table = loops();
  if (!table.dot_bf16) return std::nullopt;
  py::gil_scoped_release release;
  return best_rate(threads, [&](int) { return table.dot_bf16; }) * table.dot_bf16_flops / 1e9;
}

// `bytes` are each thread's own.
double read_bandwidth(int64_t bytes, int threads) {
  require_between("threads", threads, 1, MOST_THREADS);
  const LoopTable& table = loops();
  const int64_t floats = bytes / 4 / table.read_step * table.read_step;
  require_between("bytes", bytes, 4 * table.read_step, 4 * MOST_ELEMENTS);
  require_room(times(floats, threads), sizeof(float));
  const auto data = [floats] {
    void* p = nullptr;
    if (posix_memalign(&p, 64, (size_t)floats * sizeof(float)) != 0) throw std::bad_alloc();
    return std::shared_ptr<float>(static_cast<float*>(p), std::free);
  };
  std::vector<std::shared_ptr<float>> own;
  for (int t = 0; t < threads; t++) own.push_back(data());
  py::gil_scoped_release release;
  const auto make = [&](int t) -> std::function<float(int64_t)> {
    std::memset(own[t].get(), 0, floats * sizeof(float));
    return [&table, floats, p = own[t].get()](int64_t n) { return table.read(p, floats, n); };
  };
  return best_rate(threads, make) * (double)floats * 4 / 1e9;
}

// First data cache, second, third; 0 where the system does not say.
std::vector<int64_t> cache_bytes() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  std::vector<int64_t> sizes;
  for (int name : {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE})
    sizes.push_back(std::max<int64_t>(0, sysconf(name)));
  return sizes;
#else
  return {0, 0, 0};
#endif
}

}  // namespace

void bind_roofline(py::module_& m) {
  m.def("fma_peak", &fma_peak, py::arg("threads"));
  m.def("bf16_peak", &bf16_peak, py::arg("threads"));
  m.def("read_bandwidth", &read_bandwidth, py::arg("bytes"), py::arg("threads"));
  m.def("cache_bytes", &cache_bytes);
}

}  // namespace compfast
