// A group of members of one shape, and the workers that train them: one worker owns one member
// for a whole chunk of steps (two share one where there are workers to spare). The large arrays
// belong to the caller.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "decode_sizes.h"
#include "plan.h"
#include "tasks/stream.h"

namespace compfast {

enum Status : uint8_t { ACTIVE = 0, FROZEN = 1, DIVERGED = 2 };

struct GroupArrays {
  int64_t members = 0;
  float* params = nullptr;  // [M, flat_size]
  float* m = nullptr;
  float* v = nullptr;
  int64_t* step = nullptr;    // [M]
  uint8_t* status = nullptr;  // [M]
  const uint64_t* seed = nullptr;
  const uint64_t* dropout_seed = nullptr;
  const double* lr = nullptr;
  const double* weight_decay = nullptr;  // [M, DECAYS]
  const double* clip = nullptr;
};

// forward, backward [op_count], phases [PHASES] and total [1] in seconds; loss, grad_norm [steps].
struct ProfileArrays {
  double *forward = nullptr, *backward = nullptr, *phases = nullptr, *total = nullptr;
  float *loss = nullptr, *grad_norm = nullptr;
};

class Group {
 public:
  Group(const KernelTable& kernels, const PlanRecord& plan, const Optimizer& optimizer,
        const TaskStream& stream, const GroupArrays& arrays, int threads);
  ~Group();

  // Brings every ACTIVE member to step `until`. loss, grad_norm: [M, columns], column j is step
  // base + j. `poll` runs on the calling thread about ten times a second with the member-steps
  // done so far; when it throws, the workers stop after their step and it is thrown on.
  // Returns true when the stop flag ended the call early.
  bool advance(int64_t until, int64_t base, int64_t columns, float* loss, float* grad_norm,
               const std::function<void(int64_t)>& poll);
  void request_stop() { stop_.store(true); }
  // Where the next call's batches come from.
  void draw_from(const TaskStream& stream) { stream_ = stream; }
  // loss [M] and gradient [M, flat_size] of the mean over `count` sequences.
  void gradients(const Given& batch, int64_t count, float* loss, float* gradient);
  // Trains a copy of one member for `steps` steps from where it stands, on one thread, and adds up
  // seconds; the member stays as it is. Ends at a step that is not finite; returns the steps done.
  int64_t profile(int64_t i, int64_t steps, const ProfileArrays& out);
  // members [n] -> outputs [n, count, asked, vocabulary] and argmax [n, count, asked]; either may
  // be null.
  void outputs(const int64_t* members, int64_t n, const Given& batch, int64_t count, float* out,
               int32_t* best);
  // members [n] -> told [n, prompts.count, max_new]: what follows each prompt by `plan`, which is
  // the members' own for one position a sequence. `poll` as in advance; when it throws, no further
  // prompts are taken up.
  void generate(const PlanRecord& plan, const int64_t* members, int64_t n,
                const PromptRecord& prompts, int32_t* told, const std::function<void()>& poll);

 private:
  struct Worker;
  struct Call;  // one call of advance
  struct Team;  // two workers that share a member
  Member member(int64_t i) const;
  bool record(int64_t i, const StepResult& result, Call& call);
  StepResult step_alone(const Member& one, const Workspace& view, int64_t step);
  void train_alone(int64_t i, Worker& worker, Call& call);
  void train_together(int64_t i, Team& team, int rank, Worker& worker, Call& call);
  bool run_workers(const std::function<void(size_t)>& body, const std::function<void()>& wait);
  void parallel(int64_t count, const std::function<void(int64_t, Worker&)>& job,
                const std::function<void()>& wait);

  const KernelTable& kernels_;
  PlanRecord plan_;
  Optimizer optimizer_;
  TaskStream stream_;
  GroupArrays arrays_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<bool> stop_{false};
};

}  // namespace compfast
