// rpe_index: out[r, i, j] = table[r, i, index[i, j]]
#pragma once

#include "common.cuh"

namespace rpe_ops::cuda {

// The tables of a group's rows in shared memory: all rows' values of a bucket lie together, so
// that a few reads get them all. T is an unsigned number: values are only moved.
template <typename T>
struct StagedTables {
  static constexpr int BLOCKS = 3;  // on a multiprocessor, which has registers for so many
  static constexpr int PARTS = LOOKUP_ROWS / WIDTH<T>;
  using Part = Vector<T, WIDTH<T>>;
  const Part* part[PARTS];

  __device__ StagedTables(void* memory, RowWalk<const T> walk, int64_t stride, int count,
                          int64_t buckets) {
    Part* parts = static_cast<Part*>(memory);
#pragma unroll
    for (int p = 0; p < PARTS; ++p) part[p] = parts + p * buckets;
    __syncthreads();  // nobody reads the tables before these any more
    for (int64_t n = threadIdx.x; n < buckets; n += blockDim.x) {
      Part values[PARTS];
      RowWalk<const T> rows = walk;
#pragma unroll
      for (int r = 0; r < LOOKUP_ROWS; ++r) {
        values[r / WIDTH<T>].at[r % WIDTH<T>] = r < count ? rows.next()[n * stride] : T(0);
      }
#pragma unroll
      for (int p = 0; p < PARTS; ++p) parts[p * buckets + n] = values[p];
    }
    __syncthreads();
  }

  __device__ void get(uint32_t id, T (&values)[LOOKUP_ROWS]) const {
#pragma unroll
    for (int p = 0; p < PARTS; ++p) {
      const Part found = part[p][id];
#pragma unroll
      for (int i = 0; i < WIDTH<T>; ++i) values[p * WIDTH<T> + i] = found.at[i];
    }
  }
};

// The same where there are too many buckets for shared memory.
template <typename T>
struct TablesInPlace {
  static constexpr int BLOCKS = 2;
  RowWalk<const T> walk;
  int64_t stride;
  int count;

  __device__ TablesInPlace(void*, RowWalk<const T> walk, int64_t stride, int count, int64_t)
      : walk(walk), stride(stride), count(count) {}

  __device__ void get(uint32_t id, T (&values)[LOOKUP_ROWS]) const {
    RowWalk<const T> rows = walk;
#pragma unroll
    for (int r = 0; r < LOOKUP_ROWS; ++r) {
      if (r < count) values[r] = rows.next()[id * stride];
    }
  }
};

// Looks up `N` keys of a group's rows. Instead of an id out of range it takes the last bucket's.
template <int N, typename T, typename Tables>
__device__ inline void look_up(const Tables& tables, const int32_t* __restrict__ ids,
                               T* __restrict__ out, int64_t row_step, int count,
                               uint32_t last_id, uint32_t& largest) {
  uint32_t id[N];
  load_ids(ids, id);
  remember_largest(id, largest);
  Vector<T, N> picked[LOOKUP_ROWS];
#pragma unroll
  for (int k = 0; k < N; ++k) {
    T values[LOOKUP_ROWS];
    tables.get(id[k] < last_id ? id[k] : last_id, values);
#pragma unroll
    for (int r = 0; r < LOOKUP_ROWS; ++r) picked[r].at[k] = values[r];
  }
#pragma unroll
  for (int r = 0; r < LOOKUP_ROWS; ++r, out += row_step) {
    if (r < count) *reinterpret_cast<Vector<T, N>*>(out) = picked[r];
  }
}

template <typename T, typename Tables>
__global__ void __launch_bounds__(LOOKUP_THREADS, Tables::BLOCKS)
    lookup_kernel(Rows<const T> table, const int32_t* __restrict__ index, T* __restrict__ out,
                  Sizes sizes, LookupPlan plan) {
  extern __shared__ Chunk shared_memory[];
  const int64_t row_step = plan.classes * sizes.queries * sizes.keys;
  uint32_t largest = 0;
  for (int64_t query = blockIdx.x; query < sizes.queries; query += gridDim.x) {
    const int32_t* ids = index + query * sizes.keys;
    for (int64_t group = blockIdx.y; group < plan.groups; group += gridDim.y) {
      const int64_t cycle = divide(group, plan.classes);
      const int64_t first = group + cycle * (LOOKUP_ROWS - 1) * plan.classes;
      if (first >= sizes.rows) continue;
      const int64_t left = divide(sizes.rows - first + plan.classes - 1, plan.classes);
      const int count = left < LOOKUP_ROWS ? left : LOOKUP_ROWS;
      const Tables tables(shared_memory, {table, query, first, plan.classes}, table.stride, count,
                          sizes.buckets);
      T* row = out + (first * sizes.queries + query) * sizes.keys;
      const Span<T> span(row, int(sizes.keys));
      for (int v = threadIdx.x; v < span.vectors; v += blockDim.x) {
        const int j = span.head + v * WIDTH<T>;
        look_up<WIDTH<T>>(tables, ids + j, row + j, row_step, count, plan.last_id, largest);
      }
      // By the last threads, which have the fewest vectors.
      for (int e = blockDim.x - 1 - threadIdx.x; e < span.ends; e += blockDim.x) {
        const int j = span.end(e);
        look_up<1>(tables, ids + j, row + j, row_step, count, plan.last_id, largest);
      }
    }
  }
  CUDA_KERNEL_ASSERT(largest <= plan.last_id && "index out of range");
}

}  // namespace rpe_ops::cuda
