// What the operators call, and launches.cu contains.
#pragma once

#include <cuda_runtime_api.h>

#include "launch.h"

namespace rpe_ops::cuda {

// T: an unsigned number as large as an element.
template <typename T>
cudaError_t launch_lookup(const Rows<const T>& table, const int32_t* index, T* out,
                          const Sizes& sizes, cudaStream_t stream);

// T: float, double, c10::Half or c10::BFloat16. The last stride of x is 1.
template <typename T>
cudaError_t launch_sum(const Rows<const T>& x, const int32_t* index, T* out, const Sizes& sizes,
                       cudaStream_t stream);

}  // namespace rpe_ops::cuda
