// Launches of the kernels. Nothing here waits for the device, so that streams and CUDA graphs
// work. This file knows little of PyTorch, whose headers would be compiled for every architecture.

#include "launches.h"

#include <c10/macros/Macros.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "bucket_sum.cuh"
#include "lookup.cuh"

namespace rpe_ops::cuda {
namespace {

dim3 dim3_of(const Grid& grid) {
  return dim3(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
}

}  // namespace

template <typename T>
cudaError_t launch_lookup(const Rows<const T>& table, const int32_t* index, T* out,
                          const Sizes& sizes, cudaStream_t stream) {
  const LookupPlan plan = plan_lookup(sizes, sizeof(T));
  const auto kernel = plan.staged ? lookup_kernel<T, StagedTables<T>>
                                  : lookup_kernel<T, TablesInPlace<T>>;
  kernel<<<dim3_of(plan.grid), plan.threads, plan.shared_bytes, stream>>>(table, index, out, sizes,
                                                                          plan);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_sum(const Rows<const T>& x, const int32_t* index, T* out, const Sizes& sizes,
                       cudaStream_t stream) {
  const SumPlan plan = plan_sum(sizes, sizeof(Accumulate<T>));
  bucket_sum_kernel<T><<<dim3_of(plan.grid), plan.threads, plan.shared_bytes, stream>>>(
      x, index, out, sizes, plan);
  return cudaGetLastError();
}

#define INSTANTIATE_LOOKUP(T)                                                                  \
  template cudaError_t launch_lookup(const Rows<const T>&, const int32_t*, T*, const Sizes&, \
                                     cudaStream_t);
INSTANTIATE_LOOKUP(uint16_t)
INSTANTIATE_LOOKUP(uint32_t)
INSTANTIATE_LOOKUP(uint64_t)

#define INSTANTIATE_SUM(T)                                                                  \
  template cudaError_t launch_sum(const Rows<const T>&, const int32_t*, T*, const Sizes&, \
                                  cudaStream_t);
INSTANTIATE_SUM(float)
INSTANTIATE_SUM(double)
INSTANTIATE_SUM(c10::Half)
INSTANTIATE_SUM(c10::BFloat16)

}  // namespace rpe_ops::cuda
