// One thread block a member, for as many steps as asked: nothing but the member's own rows is read
// or written, so its bits are the same whatever else runs on the GPU.
#include <cuda_runtime.h>

#include "persistent.h"

namespace compfast {
namespace cuda {
namespace {

constexpr int THREADS = 256;

// A block's shared memory on GPUs before compute capability 9.0 and from there on (network.h).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int HERE = SHARED_90;
#else
constexpr int HERE = SHARED_80;
#endif

struct BlockTeam {
  template <class F>
  __device__ void each(int count, const F& f) const {
    for (int i = threadIdx.x; i < count; i += THREADS) f(i);
    __syncthreads();
  }
};

template <class N, int KEPT>
__global__ void __launch_bounds__(THREADS, 1)
    train_members(const __grid_constant__ Course course, const __grid_constant__ Members all,
                  int64_t base, int64_t until) {
  if constexpr (KEPT == kept_at<N>(HERE)) {
    extern __shared__ Four memory[];
    const int64_t i = blockIdx.x;
    if (all.status[i] != RUNS || all.step[i] >= until) return;
    const int64_t row = i * places<N>().size, first = i * course.batch, step = all.step[i];
    const Life life{
        all.m + row,         all.v + row,  all.gradient + row, all.tokens + first * N::T,
        all.targets + first, all.seeds[i], all.slots[i],       all.weight_decay + i * DECAYS,
        all.lr[i],           all.clip[i]};
    const Chip<KEPT> chip{reinterpret_cast<float*>(memory), all.params + row};
    const int64_t at = i * (until - base) + step - base;
    const int64_t reached = Resident<N, sequences<N>(), KEPT>::train(
        BlockTeam{}, chip, course, life, step, until, all.loss + at, all.norm + at, all.status + i);
    if (threadIdx.x == 0) all.step[i] = reached;
  }
}

std::string sentence(const std::string& what, cudaError_t error) {
  return what + ": " + cudaGetErrorString(error);
}

template <class N, int KEPT>
std::string launch(const Course& course, const Members& members, int count, int64_t base,
                   int64_t until, cudaStream_t stream) {
  constexpr int bytes = chip_bytes<N, sequences<N>()>(KEPT);
  auto* kernel = train_members<N, KEPT>;
  cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess)
    return sentence("a thread block needs " + std::to_string(bytes) + " bytes of shared memory",
                    error);
  kernel<<<count, THREADS, bytes, stream>>>(course, members, base, until);
  error = cudaGetLastError();
  return error == cudaSuccess ? "" : sentence("the launch of the members' steps", error);
}

}  // namespace

std::string train_network(int network, const Course& course, const Members& members, int count,
                          int64_t base, int64_t until, void* stream) {
  int device = 0, major = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error != cudaSuccess) return sentence("no CUDA device", error);
  return with_network(network, [&](auto chosen) {
    using N = decltype(chosen);
    auto* run = major >= 9 ? launch<N, kept_at<N>(SHARED_90)> : launch<N, kept_at<N>(SHARED_80)>;
    return run(course, members, count, base, until, static_cast<cudaStream_t>(stream));
  });
}

}  // namespace cuda
}  // namespace compfast
