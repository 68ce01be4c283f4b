// How the two kernels are launched: sizes, grids, threads and shared memory. Plain C++, which the
// tests run on the host, too.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace rpe_ops::cuda {

constexpr int WARP = 32;
constexpr int VECTOR_BYTES = 16;  // what a thread can read or write at once

template <typename T>
constexpr int WIDTH = VECTOR_BYTES / sizeof(T);

// float16 and bfloat16 are summed in float32.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

// A tensor (B, H, Lq, *) with any strides, counted in elements; r = b * H + h.
template <typename T>
struct Rows {
  T* data;
  int64_t heads;
  int64_t batch_stride, head_stride, query_stride, stride;
};

struct Sizes {
  int64_t rows;  // B * H
  int64_t queries, keys, buckets;
};

struct Grid {
  int64_t x, y;
};

constexpr int64_t MAX_GRID_X = 1 << 30;
constexpr int64_t MAX_GRID_Y = 65535;
// Every GPU lets a block have this much without being asked.
constexpr int64_t SHARED_BYTES = 48 * 1024;

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The last valid id. Kernels read ids as unsigned numbers: negative ones are larger than any.
inline uint32_t last_id(int64_t buckets) {
  return static_cast<uint32_t>(std::min(buckets, int64_t(1) << 31) - 1);
}

// ---- rpe_index ----

constexpr int LOOKUP_ROWS = 8;  // r that share the reading of an id
constexpr int LOOKUP_THREADS = 256;  // at most

// A block takes a query, for LOOKUP_ROWS r at a time (a group). A thread writes the same keys of
// all of them, in vectors, so the rows of a group have to be aligned alike: they are `classes`
// apart. Where shared memory has room, it holds the group's tables.
struct LookupPlan {
  int64_t classes, groups;
  bool staged;
  uint32_t last_id;
  Grid grid;
  int64_t threads, shared_bytes;
};

inline LookupPlan plan_lookup(const Sizes& sizes, int64_t element_bytes) {
  LookupPlan plan;
  plan.last_id = last_id(sizes.buckets);
  const int64_t width = VECTOR_BYTES / element_bytes;
  for (plan.classes = 1; plan.classes * sizes.queries * sizes.keys % width != 0;) {
    plan.classes *= 2;
  }
  plan.groups = std::min(
      sizes.rows,
      plan.classes * divide_up(divide_up(sizes.rows, plan.classes), LOOKUP_ROWS));
  const int64_t table_bytes = sizes.buckets * LOOKUP_ROWS * element_bytes;
  plan.staged = table_bytes <= SHARED_BYTES;
  plan.shared_bytes = plan.staged ? table_bytes : 0;
  plan.grid = {std::min(sizes.queries, MAX_GRID_X), std::min(plan.groups, MAX_GRID_Y)};
  // As few rounds as possible, of equal length; one more vector for the keys at the ends.
  const int64_t vectors = sizes.keys / width + 1;
  const int64_t rounds = divide_up(vectors, LOOKUP_THREADS);
  plan.threads = divide_up(divide_up(vectors, rounds), WARP) * WARP;
  return plan;
}

// ---- rpe_index_sum ----

constexpr int64_t MAX_SUM_WARPS = 4;  // of a block

// A warp takes one row, and sums `pass` buckets in one pass over it: what shared memory has room
// for, a column for each thread of the warp.
struct SumPlan {
  int64_t pass;
  uint32_t last_id;
  Grid grid;
  int64_t threads, shared_bytes;
};

inline SumPlan plan_sum(const Sizes& sizes, int64_t accumulator_bytes) {
  SumPlan plan;
  plan.last_id = last_id(sizes.buckets);
  const int64_t bucket_bytes = WARP * accumulator_bytes;
  plan.pass = std::min(sizes.buckets, SHARED_BYTES / bucket_bytes);
  const int64_t warp_bytes = plan.pass * bucket_bytes;
  const int64_t warps = std::clamp<int64_t>(SHARED_BYTES / warp_bytes, 1, MAX_SUM_WARPS);
  plan.grid = {std::min(divide_up(sizes.rows * sizes.queries, warps), MAX_GRID_X), 1};
  plan.threads = warps * WARP;
  plan.shared_bytes = warps * warp_bytes;
  return plan;
}

}  // namespace rpe_ops::cuda
