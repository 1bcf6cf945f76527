// What every single op's binding does: tensors by address, members over threads, indices checked.
#pragma once

#include <pybind11/pybind11.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "checks.h"
#include "isa.h"
#include "op_table.h"

namespace compfast {

namespace {

using Address = uintptr_t;

const float* in(Address a) { return reinterpret_cast<const float*>(a); }
float* out(Address a) { return reinterpret_cast<float*>(a); }

struct Named {
  const char* name;
  Address address;
};

template <typename T>
void require_tensors(std::initializer_list<Named> tensors) {
  for (const Named& tensor : tensors)
    if (tensor.address == 0 || tensor.address % alignof(T) != 0)
      refuse(std::string(tensor.name) + (tensor.address ? " is not aligned" : " is missing"));
}

constexpr int64_t MOST_WORDS = 4 * MOST_BLOCKS;  // of a stream

template <typename T>
T* at(T* tensor, int64_t member, int64_t size) {
  return tensor ? tensor + member * size : nullptr;
}

const OpTable& table() {
  const char* forced = std::getenv("COMPFAST_ISA");
  return *select_kernels(forced ? forced : "").ops;
}

struct Free {
  void operator()(float* p) const { std::free(p); }
};

bool poisoned = false;  // tests: scratch starts as NaN

std::unique_ptr<float[], Free> allocate(int64_t count) {
  require_room(count + 1, sizeof(float));
  void* p = nullptr;
  if (posix_memalign(&p, 64, (size_t)(count + 1) * sizeof(float)) != 0) throw std::bad_alloc();
  if (poisoned)
    for (int64_t i = 0; i < count; i++) static_cast<float*>(p)[i] = std::nanf("");
  return std::unique_ptr<float[], Free>(static_cast<float*>(p));
}

// Below so many multiply-adds a thread starting costs more than it saves.
constexpr int64_t WORTH_A_THREAD = 300000;

// job(member, scratch) for every member. A thread takes the next member when it is free; what is
// computed for one does not depend on which thread does it. New threads inherit the caller's
// floating-point mode (POSIX).
template <typename Job>
void over_members(int64_t members, int64_t work, int threads, int64_t scratch_size,
                  const Job& job) {
  require_threads(threads);
  const int64_t worth = times(members, work) / WORTH_A_THREAD + 1;
  const int64_t workers = std::min({(int64_t)threads, members, worth});
  pybind11::gil_scoped_release release;
  const int64_t stride = to_pad(scratch_size) + 16;
  const auto scratch = allocate(times(workers, stride));
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr error;
  const auto run = [&](int64_t worker) {
    try {
      for (int64_t m = next++; m < members; m = next++) job(m, scratch.get() + worker * stride);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      error = std::current_exception();
      next = members;
    }
  };
  std::vector<std::thread> started;
  started.reserve(workers);
  try {
    for (int64_t worker = 1; worker < workers; worker++) started.emplace_back(run, worker);
  } catch (const std::exception&) {
    // No thread or no memory: the threads that did start share the work.
  }
  run(0);
  for (std::thread& t : started) t.join();
  if (error) std::rethrow_exception(error);
}

// int64 indices as the kernels' int32, each below `limit`.
std::vector<int32_t> indices(Address tensor, int64_t count, int64_t limit, const char* what) {
  require_tensors<int64_t>({{what, tensor}});
  require_between("vocabulary", limit, 1, MOST_WIDTH);
  require_room(count, sizeof(int32_t));
  const int64_t* from = reinterpret_cast<const int64_t*>(tensor);
  std::vector<int32_t> result(count);
  for (int64_t i = 0; i < count; i++) {
    if (from[i] < 0 || from[i] >= limit)
      throw std::invalid_argument(std::string("a ") + what + " is " + std::to_string(from[i]) +
                                  "; it must be at least 0 and below " + std::to_string(limit));
    result[i] = (int32_t)from[i];
  }
  return result;
}

// One member's number of a float64 tensor [M].
double number_of(Address tensor, int64_t member) {
  return reinterpret_cast<const double*>(tensor)[member];
}

}  // namespace

}  // namespace compfast
