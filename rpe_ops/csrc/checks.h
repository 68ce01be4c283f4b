// What every kernel relies on. Python checks first, with more words; these also hold for
// callers of torch.ops.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>

namespace rpe_ops {

inline void check_index(const at::Tensor& index, const at::Tensor& like, const char* name) {
  TORCH_CHECK_VALUE(index.dim() == 2 && index.scalar_type() == at::kInt, name,
                    ": index must be an int32 matrix");
  TORCH_CHECK_VALUE(index.device() == like.device(), name, ": index is on ", index.device(),
                    ", the first argument on ", like.device());
  TORCH_CHECK_VALUE(index.size(1) < std::numeric_limits<int32_t>::max(), name,
                    ": too many keys");
}

inline void check_rpe_index(const at::Tensor& table, const at::Tensor& index) {
  check_index(index, table, "rpe_index");
  TORCH_CHECK_VALUE(table.dim() == 4 && table.size(2) == index.size(0),
                    "rpe_index: table must be (B, H, ", index.size(0), ", N)");
}

inline void check_rpe_index_sum(const at::Tensor& x, const at::Tensor& index,
                                int64_t num_buckets) {
  check_index(index, x, "rpe_index_sum");
  TORCH_CHECK_VALUE(x.dim() == 4 && x.size(2) == index.size(0) && x.size(3) == index.size(1),
                    "rpe_index_sum: x must be (B, H, ", index.size(0), ", ", index.size(1), ")");
  TORCH_CHECK_VALUE(num_buckets >= 0, "rpe_index_sum: num_buckets must not be negative");
}

}  // namespace rpe_ops
