// rpe_index_sum: out[r, i, n] = sum of x[r, i, j] over the j with index[i, j] == n
#pragma once

#include "common.cuh"

namespace rpe_ops::cuda {

constexpr int KEYS_IN_FLIGHT = 8;  // of each thread
constexpr int SUM_BLOCKS = 5;  // on a multiprocessor, which has registers for so many

// The same address of shared memory, which the compiler keeps in a register: it would work it out
// again for each access.
template <typename T>
__device__ inline T* keep_address(T* shared) {
#if defined(__CUDA_ARCH__)
  uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("" : "+r"(address));
  shared = static_cast<T*>(__cvta_shared_to_generic(address));
#endif
  return shared;
}

// A thread's column of sums, for the buckets [low, low + count).
template <typename Acc>
struct Column {
  Acc* sums;
  uint32_t low, count;

  // Adds the values of `N` neighbours. Those are often in one bucket: they are added up before
  // memory is touched. Ids of other buckets, and those out of range, are left out.
  template <int N, typename T>
  __device__ void add(const uint32_t (&id)[N], const Vector<T, N>& value) const {
    uint32_t bucket = id[0] - low;
    Acc total = static_cast<Acc>(value.at[0]);
#pragma unroll
    for (int k = 1; k < N; ++k) {
      if (id[k] - low != bucket) {
        if (bucket < count) sums[bucket * WARP] += total;
        bucket = id[k] - low;
        total = Acc(0);
      }
      total += static_cast<Acc>(value.at[k]);
    }
    if (bucket < count) sums[bucket * WARP] += total;
  }
};

// A warp takes one row (r, query). Every thread sums its keys into buckets of its own, a column
// of shared memory, and then each takes some buckets and adds up their 32 columns: always in the
// same order, so the same input gives the same bits, without atomics. Where shared memory has
// room for some buckets only, the row is read again for the next ones.
template <typename T>
__global__ void __launch_bounds__(MAX_SUM_WARPS* WARP, SUM_BLOCKS)
    bucket_sum_kernel(Rows<const T> x, const int32_t* __restrict__ index, T* __restrict__ out,
                      Sizes sizes, SumPlan plan) {
  using Acc = Accumulate<T>;
  constexpr int STEPS = KEYS_IN_FLIGHT / WIDTH<T>;
  using Part = Vector<Acc, WIDTH<Acc>>;  // of the 32 sums of a bucket
  constexpr int PARTS = WARP / WIDTH<Acc>;
  extern __shared__ Chunk shared_memory[];
  const int lane = threadIdx.x % WARP;
  const int64_t warps = blockDim.x / WARP;
  Part* sums = reinterpret_cast<Part*>(shared_memory) + threadIdx.x / WARP * plan.pass * PARTS;

  uint32_t largest = 0;
  // The warps of a block, and neighbouring blocks, take the r of one query, which share its ids.
  const int64_t stride = gridDim.x * warps;
  for (int64_t row = blockIdx.x * warps + threadIdx.x / WARP; row < sizes.rows * sizes.queries;
       row += stride) {
    const int64_t query = divide(row, sizes.rows);
    const int64_t r = row - query * sizes.rows;
    const T* values = RowWalk<const T>(x, query, r, 1).row;
    const int32_t* ids = index + query * sizes.keys;
    const Span<T> span(values, int(sizes.keys));
    for (int64_t low = 0; low < sizes.buckets; low += plan.pass) {
      const int count = sizes.buckets - low < plan.pass ? sizes.buckets - low : plan.pass;
      for (int n = lane; n < count * PARTS; n += WARP) sums[n] = Part{};
      __syncwarp();

      // Ids are below 2^31: in later passes there is nothing to add.
      const Column<Acc> column{keep_address(reinterpret_cast<Acc*>(sums) + lane), uint32_t(low),
                               low <= plan.last_id ? uint32_t(count) : 0};
      for (int begin = 0; begin < span.vectors; begin += WARP * STEPS) {
        uint32_t id[STEPS][WIDTH<T>];
        Vector<T, WIDTH<T>> value[STEPS];
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          const int v = begin + s * WARP + lane;
          if (v >= span.vectors) continue;
          const int j = span.head + v * WIDTH<T>;
          load_ids(ids + j, id[s]);
          value[s] = *reinterpret_cast<const Vector<T, WIDTH<T>>*>(values + j);
        }
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          if (begin + s * WARP + lane >= span.vectors) continue;
          remember_largest(id[s], largest);
          column.add(id[s], value[s]);
        }
      }
      if (lane < span.ends) {  // there are fewer than two vectors' keys
        const int j = span.end(lane);
        const uint32_t id[1] = {static_cast<uint32_t>(ids[j])};
        remember_largest(id, largest);
        column.add(id, Vector<T, 1>{values[j]});
      }
      __syncwarp();
      for (int n = lane; n < count; n += WARP) {
        Acc total = Acc(0);
        // Neighbours begin at other parts, or all would wait for one bank of memory.
#pragma unroll
        for (int p = 0; p < PARTS; ++p) {
          const Part part = sums[n * PARTS + (p ^ lane % PARTS)];
#pragma unroll
          for (int k = 0; k < WIDTH<Acc>; ++k) total += part.at[k];
        }
        out[(r * sizes.queries + query) * sizes.buckets + low + n] = static_cast<T>(total);
      }
      __syncwarp();
    }
  }
  CUDA_KERNEL_ASSERT(largest <= plan.last_id && "index out of range");
}

}  // namespace rpe_ops::cuda
