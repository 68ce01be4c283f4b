// The operators on the CPU: checks, choice of kernels, distribution over threads.

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "../checks.h"
#include "avx2.h"
#include "avx512.h"
#include "portable.h"

namespace rpe_ops {
namespace {

enum class Kernels { portable, avx2, avx512 };

struct NamedKernels {
  const char* name;
  Kernels kernels;
  bool supported;
};

// The fastest first.
const std::array<NamedKernels, 3>& all_kernels() {
  static const std::array<NamedKernels, 3> all{{
      {"avx512", Kernels::avx512, avx512::supported()},
      {"avx2", Kernels::avx2, avx2::supported()},
      {"portable", Kernels::portable, true},
  }};
  return all;
}

std::vector<std::string> all_cpu_kernels() {
  std::vector<std::string> names;
  for (const auto& set : all_kernels()) {
    if (set.supported) names.emplace_back(set.name);
  }
  return names;
}

Kernels kernels_named(const std::string& name) {
  for (const auto& set : all_kernels()) {
    if (name == "auto" ? set.supported : name == set.name) {
      TORCH_CHECK_VALUE(set.supported, "use_cpu_kernels: this processor cannot run ", name);
      return set.kernels;
    }
  }
  TORCH_CHECK_VALUE(false, "use_cpu_kernels: name must be auto, avx512, avx2 or portable, is ",
                    name);
}

std::atomic<Kernels>& kernels_in_use() {
  static std::atomic<Kernels> in_use{kernels_named("auto")};
  return in_use;
}

std::string cpu_kernels() {
  const Kernels in_use = kernels_in_use();
  for (const auto& set : all_kernels()) {
    if (set.kernels == in_use) return set.name;
  }
  return "";
}

void use_cpu_kernels(const std::string& name) { kernels_in_use() = kernels_named(name); }

template <typename T>
LookupKernel<T> lookup_kernel(Kernels kernels, int64_t buckets) {
  if constexpr (sizeof(T) <= 4) {
    if (kernels == Kernels::avx512 && buckets <= avx512::MAX_BUCKETS) return avx512::lookup<T>;
    if (kernels == Kernels::avx2) return avx2::lookup<T>;
  }
  return portable::lookup<T>;
}

template <typename T>
BucketSumKernel<T> sum_kernel(Kernels kernels) {
  if constexpr (sizeof(T) <= 4) {
    if (kernels == Kernels::avx512) return avx512::sum<T>;
    if (kernels == Kernels::avx2) return avx2::sum<T>;
  }
  return portable::sum<T>;
}

using InRange = bool (*)(const int32_t* ids, int64_t keys, int64_t buckets);

InRange in_range_of(Kernels kernels) {
  return kernels == Kernels::avx512 ? avx512::in_range
         : kernels == Kernels::avx2 ? avx2::in_range
                                    : portable::in_range;
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
void for_each_query(const char* name, const Job& job, int64_t rows, InRange in_range,
                    Kernel kernel) {
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
        const Kernels kernels = kernels_in_use();
        for_each_query("rpe_index", job, table.size(0) * table.size(1), in_range_of(kernels),
                       lookup_kernel<scalar_t>(kernels, table.size(3)));
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
        const Kernels kernels = kernels_in_use();
        for_each_query("rpe_index_sum", job, x.size(0) * x.size(1), in_range_of(kernels),
                       sum_kernel<scalar_t>(kernels));
      });
  return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(rpe_ops, CPU, m) {
  m.impl("rpe_index", &rpe_index);
  m.impl("rpe_index_sum", &rpe_index_sum);
}

TORCH_LIBRARY_FRAGMENT(rpe_ops, m) {
  // The kernels in use on the CPU, all that this processor can run, the fastest first, and a
  // choice among them: "auto" or one of their names.
  m.def("cpu_kernels() -> str", &cpu_kernels);
  m.def("all_cpu_kernels() -> str[]", &all_cpu_kernels);
  m.def("use_cpu_kernels(str name) -> ()", &use_cpu_kernels);
}

}  // namespace rpe_ops
