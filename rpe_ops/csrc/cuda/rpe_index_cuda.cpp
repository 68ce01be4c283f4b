// The operators on CUDA: checks, and what is launched.

#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "../checks.h"
#include "launches.h"

namespace rpe_ops::cuda {
namespace {

template <typename T>
Rows<const T> rows_of(const at::Tensor& t) {
  return {static_cast<const T*>(t.const_data_ptr()), t.size(1), t.stride(0), t.stride(1),
          t.stride(2), t.stride(3)};
}

// An unsigned number of as many bytes.
template <int BYTES>
using Bits = std::conditional_t<BYTES == 2, uint16_t,
                                std::conditional_t<BYTES == 4, uint32_t, uint64_t>>;

at::Tensor rpe_index(const at::Tensor& table, const at::Tensor& index) {
  check_rpe_index(table, index);
  const c10::cuda::CUDAGuard guard(table.device());
  const auto ids = index.contiguous();
  const Sizes sizes{table.size(0) * table.size(1), ids.size(0), ids.size(1), table.size(3)};
  auto out = at::empty({table.size(0), table.size(1), sizes.queries, sizes.keys}, table.options());
  if (out.numel() == 0) return out;
  TORCH_CHECK_INDEX(sizes.buckets > 0, "rpe_index: the table has no bucket");
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, table.scalar_type(), "rpe_index", [&] {
        using T = Bits<sizeof(scalar_t)>;
        C10_CUDA_CHECK(launch_lookup<T>(rows_of<T>(table), ids.const_data_ptr<int32_t>(),
                                        static_cast<T*>(out.mutable_data_ptr()), sizes,
                                        at::cuda::getCurrentCUDAStream()));
      });
  return out;
}

at::Tensor rpe_index_sum(const at::Tensor& x, const at::Tensor& index, int64_t num_buckets) {
  check_rpe_index_sum(x, index, num_buckets);
  const c10::cuda::CUDAGuard guard(x.device());
  const auto ids = index.contiguous();
  const auto values = x.stride(3) == 1 ? x : x.contiguous();
  const Sizes sizes{x.size(0) * x.size(1), ids.size(0), ids.size(1), num_buckets};
  auto out = at::empty({x.size(0), x.size(1), sizes.queries, num_buckets}, x.options());
  if (x.numel() == 0 || num_buckets == 0) return out.zero_();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "rpe_index_sum", [&] {
        C10_CUDA_CHECK(launch_sum<scalar_t>(rows_of<scalar_t>(values),
                                            ids.const_data_ptr<int32_t>(),
                                            out.mutable_data_ptr<scalar_t>(), sizes,
                                            at::cuda::getCurrentCUDAStream()));
      });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(rpe_ops, CUDA, m) {
  m.impl("rpe_index", &rpe_index);
  m.impl("rpe_index_sum", &rpe_index_sum);
}

}  // namespace rpe_ops::cuda
