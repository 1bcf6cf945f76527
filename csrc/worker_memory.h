// One worker's memory for a plan: workspace, packed weights, gradients, scratch and a batch.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#include "attention_mixed_sizes.h"
#include "checks.h"
#include "plan.h"

namespace compfast {

struct FreeDeleter {
  void operator()(void* p) const { std::free(p); }
};

template <typename T>
std::unique_ptr<T[], FreeDeleter> allocate(int64_t count) {
  // Not rounded up, so that AddressSanitizer sees the first byte past the end.
  require_room(count, sizeof(T));
  const size_t bytes = (size_t)count * sizeof(T);
  void* p = nullptr;
  if (posix_memalign(&p, 64, bytes) != 0) throw std::bad_alloc();
  std::memset(p, 0, bytes);
  return std::unique_ptr<T[], FreeDeleter>(static_cast<T*>(p));
}

// Attention's for sequences of up to t positions, each of which chooses its way by its own length.
inline int64_t ragged_attention_room(int64_t t, int64_t d_k, int64_t d_v) {
  int64_t size = 0;
  for (int64_t own = 1; own <= t; own++) {
    const int64_t wanted = attention_room(own, own, d_k, d_v);
    size = wanted > size ? wanted : size;
  }
  return size;
}

// The most that any op of the plan wants.
inline int64_t scratch_size(const PlanRecord& plan) {
  int64_t size = 1;
  for (int i = 0; i < plan.op_count; i++) {
    const OpRecord& op = plan.ops[i];
    const int64_t t = op.in[1].rows, d = op.in[1].width;
    int64_t wanted = 0;
    if (op.kind == OP_ATTENTION && op.shared)
      wanted = attention_room(op.heads, t, d, d);
    else if (op.kind == OP_ATTENTION && plan.ragged)
      wanted = ragged_attention_room(t, op.d_k, op.d_v);
    else if (op.kind == OP_ATTENTION)
      wanted = attention_room(op.out.rows, t, op.d_k, op.d_v);
    else if (op.kind == OP_MIXED_ATTENTION)
      wanted = mixed_room(t, op.heads, op.d_k, op.d_v, op.path);
    else if (op.kind == OP_GENERATED)
      wanted = to_pad(op.columns);
    else if (op.kind == OP_HEAD_LINEAR)
      wanted = plan.microbatch * to_pad(op.d_in > op.head_width ? op.d_in : op.head_width);
    size = wanted > size ? wanted : size;
  }
  return size;
}

struct WorkerMemory {
  explicit WorkerMemory(const PlanRecord& plan)
      : values(allocate<float>(plan.workspace_size)),
        packed(allocate<float>(plan.packed_size)),
        gradient(allocate<float>(2 * plan.flat_size)),
        scratch(allocate<float>(scratch_size(plan))),
        ids(allocate<int32_t>(id_count(plan))),
        numbers(allocate<float>(number_count(plan))),
        starts(allocate<int32_t>(start_count(plan))) {
    view.values = values.get();
    view.packed = packed.get();
    view.gradient[0] = gradient.get();
    view.gradient[1] = gradient.get() + plan.flat_size;
    view.scratch = scratch.get();
    view.starts = starts.get();
    const Ports& p = plan.ports;
    const int64_t inputs = plan.batch * input_count(p);
    int32_t* next_id = ids.get();
    float* next_number = numbers.get();
    if (p.width)
      view.batch.vectors = next_number, next_number += inputs;
    else
      view.batch.tokens = next_id, next_id += inputs;
    if (p.numbers)
      view.batch.answers = next_number;
    else
      view.batch.targets = next_id;
  }
  // Ids and numbers of a batch.
  static int64_t id_count(const PlanRecord& plan) {
    const Ports& p = plan.ports;
    return times(plan.batch, (p.width ? 0 : input_count(p)) + (p.numbers ? 0 : target_count(p)));
  }
  static int64_t number_count(const PlanRecord& plan) {
    return times(plan.batch, input_count(plan.ports) + target_count(plan.ports)) - id_count(plan);
  }
  static int64_t start_count(const PlanRecord& plan) {
    return plan.ragged ? times(plan.microbatch, plan.ports.positions) + 1 : 0;
  }
  // Floats of one worker; ids are as wide.
  static int64_t size(const PlanRecord& plan) {
    return plan.workspace_size + plan.packed_size + 2 * plan.flat_size + scratch_size(plan) +
           times(plan.batch, input_count(plan.ports) + target_count(plan.ports)) +
           start_count(plan);
  }
  std::unique_ptr<float[], FreeDeleter> values, packed, gradient, scratch;
  std::unique_ptr<int32_t[], FreeDeleter> ids;
  std::unique_ptr<float[], FreeDeleter> numbers;
  std::unique_ptr<int32_t[], FreeDeleter> starts;
  Workspace view;
};

}  // namespace compfast
