// The operators on the CPU: checks, choice of kernels, distribution over threads.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <atomic>
#include <string>

#include "../checks.h"
#include "avx512.h"
#include "portable.h"

namespace rpe_ops {
namespace {

std::atomic<bool>& use_avx512() {
  static std::atomic<bool> use{avx512::supported()};
  return use;
}

std::string cpu_kernels() { return use_avx512() ? "avx512" : "portable"; }

void use_cpu_kernels(const std::string& name) {
  TORCH_CHECK_VALUE(name == "auto" || name == "avx512" || name == "portable",
                    "use_cpu_kernels: name must be auto, avx512 or portable, is ", name);
  TORCH_CHECK_VALUE(name != "avx512" || avx512::supported(),
                    "use_cpu_kernels: this processor has no AVX-512");
  use_avx512() = name != "portable" && avx512::supported();
}

template <typename T>
LookupKernel<T> lookup_kernel(int64_t buckets) {
  if constexpr (sizeof(T) <= 4) {
    if (use_avx512() && buckets <= avx512::MAX_BUCKETS) return avx512::lookup<T>;
  }
  return portable::lookup<T>;
}

template <typename T>
BucketSumKernel<T> sum_kernel() {
  if constexpr (sizeof(T) <= 4) {
    if (use_avx512()) return avx512::sum<T>;
  }
  return portable::sum<T>;
}

template <typename T>
Rows<T> rows_of(const at::Tensor& t) {
  return {t.const_data_ptr<T>(), t.size(1), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// Larger results leave the caches before anybody reads them.
constexpr int64_t CACHE_BYTES = int64_t(1) << 24;

// Where there are few queries, several threads share one.
constexpr int64_t ROWS_PER_TASK = 16;

// Less work than this is not worth another thread.
constexpr int64_t ELEMENTS_PER_THREAD = 32768;

// Run the kernel for each query and all `rows` (b, h), on as many threads as the work is worth.
template <typename Job, typename Kernel>
void for_each_query(const char* name, const Job& job, int64_t rows, Kernel kernel) {
  const auto in_range = use_avx512() ? avx512::in_range : portable::in_range;
  const bool few = job.queries < 4 * at::get_num_threads();
  const int64_t rows_per_task = few ? ROWS_PER_TASK : rows;
  const int64_t tasks_per_query = (rows + rows_per_task - 1) / rows_per_task;
  const int64_t elements_per_task = rows_per_task * job.keys + 1;
  const int64_t grain = std::max<int64_t>(1, ELEMENTS_PER_THREAD / elements_per_task);
  at::parallel_for(0, job.queries * tasks_per_query, grain, [&](int64_t begin, int64_t end) {
    Scratch scratch;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t query = task / tasks_per_query;
      const int64_t first = task % tasks_per_query * rows_per_task;
      // Costs little next to the rows that share the ids, and keeps every access inside.
      TORCH_CHECK_INDEX(in_range(job.index + query * job.keys, job.keys, job.buckets), name,
                        ": row ", query, " of index has an id outside [0, ", job.buckets, ")");
      kernel(job, query, first, std::min(first + rows_per_task, rows), scratch);
    }
  });
}

at::Tensor rpe_index(const at::Tensor& table, const at::Tensor& index) {
  check_rpe_index(table, index);
  const auto ids = index.contiguous();
  auto out = at::empty({table.size(0), table.size(1), index.size(0), index.size(1)},
                       table.options());
  if (out.numel() == 0) return out;
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, table.scalar_type(), "rpe_index", [&] {
        const Lookup<scalar_t> job{
            rows_of<scalar_t>(table),       ids.const_data_ptr<int32_t>(),
            out.mutable_data_ptr<scalar_t>(), ids.size(0),
            ids.size(1),                    table.size(3),
            static_cast<int64_t>(out.nbytes()) > CACHE_BYTES};
        for_each_query("rpe_index", job, table.size(0) * table.size(1),
                       lookup_kernel<scalar_t>(table.size(3)));
      });
  return out;
}

at::Tensor rpe_index_sum(const at::Tensor& x, const at::Tensor& index, int64_t num_buckets) {
  check_rpe_index_sum(x, index, num_buckets);
  const auto ids = index.contiguous();
  const auto rows = x.stride(3) == 1 ? x : x.contiguous();
  auto out = at::empty({x.size(0), x.size(1), x.size(2), num_buckets}, x.options());
  if (x.numel() == 0) return out.zero_();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, x.scalar_type(), "rpe_index_sum", [&] {
        const BucketSum<scalar_t> job{
            rows_of<scalar_t>(rows), ids.const_data_ptr<int32_t>(),
            out.mutable_data_ptr<scalar_t>(), ids.size(0), ids.size(1), num_buckets};
        for_each_query("rpe_index_sum", job, x.size(0) * x.size(1), sum_kernel<scalar_t>());
      });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(rpe_ops, CPU, m) {
  m.impl("rpe_index", &rpe_index);
  m.impl("rpe_index_sum", &rpe_index_sum);
}

TORCH_LIBRARY_FRAGMENT(rpe_ops, m) {
  // The kernels in use on the CPU, and a choice among them: "auto", "avx512" or "portable".
  m.def("cpu_kernels() -> str", &cpu_kernels);
  m.def("use_cpu_kernels(str name) -> ()", &use_cpu_kernels);
}

}  // namespace rpe_ops
