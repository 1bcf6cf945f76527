// The launcher of csrc/cuda/persistent.cu, for code that no CUDA compiler sees.
#pragma once

#include <cstdint>
#include <string>

#include "step.h"

namespace compfast {
namespace cuda {

// Rows of all members in device memory.
struct Members {
  float *params, *m, *v, *gradient;  // [M, P]
  int32_t *tokens, *targets;         // [M, batch, T], [M, batch]
  const uint64_t* seeds;             // [M]
  const int32_t* slots;              // [M], of what the host drew
  const double *lr, *clip;           // [M]
  const double* weight_decay;        // [M, DECAYS]
  int64_t* step;                     // [M]
  uint8_t* status;                   // [M]
  float *loss, *norm;                // [M, until - base]
};

// Every running member of network.h's `network` goes on to step `until` on a thread block of its
// own; asynchronous on `stream` (a cudaStream_t). Returns what went wrong in one sentence, or
// nothing.
std::string train_network(int network, const Course& course, const Members& members, int count,
                          int64_t base, int64_t until, void* stream);

}  // namespace cuda
}  // namespace compfast
