// The operators on CUDA: checks and launches. Nothing here waits for the device, so that streams
// and CUDA graphs work.

#include <ATen/Dispatch.h>
#include <ATen/cuda/CUDAContext.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/macros/Macros.h>
#include <torch/library.h>

#include <algorithm>

#include "../checks.h"
#include "kernels.cuh"

namespace rpe_ops {
namespace {

constexpr int64_t MAX_GRID_X = 1 << 30;
constexpr int64_t MAX_GRID_Y = 65535;
// Every GPU lets a block have this much without being asked.
constexpr int64_t SHARED_BYTES = 48 * 1024;
constexpr int64_t MAX_WARPS = 4;  // of a block that sums

template <typename T>
Rows<const T> rows_of(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), t.size(1), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Call `launch` with 1, 2, 4 or 8, known when compiled.
template <int LIMIT, typename Launch>
void with_width(int width, Launch launch) {
  if constexpr (LIMIT > 1) {
    if (width < LIMIT) return with_width<LIMIT / 2>(width, launch);
  }
  launch(std::integral_constant<int, LIMIT>());
}

at::Tensor rpe_index(const at::Tensor& table, const at::Tensor& index) {
  check_rpe_index(table, index);
  const c10::cuda::CUDAGuard guard(table.device());
  const auto ids = index.contiguous();
  const int64_t rows = table.size(0) * table.size(1);
  const int64_t queries = ids.size(0), keys = ids.size(1), buckets = table.size(3);
  auto out = at::empty({table.size(0), table.size(1), queries, keys}, table.options());
  if (out.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, table.scalar_type(), "rpe_index", [&] {
        constexpr int LIMIT = 16 / sizeof(scalar_t);
        const auto* index_data = ids.const_data_ptr<int32_t>();
        auto* out_data = out.mutable_data_ptr<scalar_t>();
        const int width =
            common_width(LIMIT, keys, reinterpret_cast<uintptr_t>(index_data) / sizeof(int32_t),
                         reinterpret_cast<uintptr_t>(out_data) / sizeof(scalar_t));
        const dim3 grid(std::min(divide_up(queries * keys / width, LOOKUP_THREADS), MAX_GRID_X),
                        std::min(divide_up(rows, LOOKUP_ROWS), MAX_GRID_Y));
        with_width<LIMIT>(width, [&](auto w) {
          lookup_kernel<scalar_t, w()>
              <<<grid, LOOKUP_THREADS, 0, at::cuda::getCurrentCUDAStream()>>>(
                  rows_of<scalar_t>(table), index_data, out_data, rows, queries, keys, buckets);
        });
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return out;
}

at::Tensor rpe_index_sum(const at::Tensor& x, const at::Tensor& index, int64_t num_buckets) {
  check_rpe_index_sum(x, index, num_buckets);
  const c10::cuda::CUDAGuard guard(x.device());
  const auto ids = index.contiguous();
  const auto values = x.stride(3) == 1 ? x : x.contiguous();
  const int64_t rows = x.size(0) * x.size(1);
  const int64_t queries = ids.size(0), keys = ids.size(1);
  auto out = at::empty({x.size(0), x.size(1), queries, num_buckets}, x.options());
  if (x.numel() == 0 || num_buckets == 0) return out.zero_();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "rpe_index_sum", [&] {
        constexpr int LIMIT = std::min<int>(16 / sizeof(scalar_t), KEYS_IN_FLIGHT);
        const auto* index_data = ids.const_data_ptr<int32_t>();
        const auto* x_data = values.const_data_ptr<scalar_t>();
        const int width =
            common_width(LIMIT, keys, reinterpret_cast<uintptr_t>(index_data) / sizeof(int32_t),
                         reinterpret_cast<uintptr_t>(x_data) / sizeof(scalar_t),
                         values.stride(0), values.stride(1), values.stride(2));
        const int64_t pass = std::min(num_buckets, buckets_in<scalar_t>(SHARED_BYTES));
        const int64_t warp_bytes = pass * WARP * sizeof(Accumulate<scalar_t>);
        const int64_t warps = std::clamp<int64_t>(SHARED_BYTES / warp_bytes, 1, MAX_WARPS);
        const dim3 grid(std::min(divide_up(rows * queries, warps), MAX_GRID_X));
        with_width<LIMIT>(width, [&](auto w) {
          bucket_sum_kernel<scalar_t, w()>
              <<<grid, warps * WARP, warps * warp_bytes, at::cuda::getCurrentCUDAStream()>>>(
                  rows_of<scalar_t>(values), index_data, out.mutable_data_ptr<scalar_t>(), rows,
                  queries, keys, num_buckets, pass);
        });
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(rpe_ops, CUDA, m) {
  m.impl("rpe_index", &rpe_index);
  m.impl("rpe_index_sum", &rpe_index_sum);
}

}  // namespace rpe_ops
