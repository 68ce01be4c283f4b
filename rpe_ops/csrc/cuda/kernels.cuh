// The CUDA kernels of the two operators. Each input is read once and each result written once, in
// vectors of 16 bytes: a row's first and last keys, which no whole aligned vector holds, are taken
// one by one.
#pragma once

#include <cstdint>

#include "launch.h"

namespace rpe_ops::cuda {

// a / b of numbers that are not negative. On a GPU a division of 64 bits is a call, for which
// registers are saved in memory. Nearly all numbers have 32; for others one bit is found at a time.
__host__ __device__ inline int64_t divide(int64_t a, int64_t b) {
  if (((a | b) >> 32) == 0) return int64_t(uint32_t(a) / uint32_t(b));
  int64_t quotient = 0, rest = 0;
#pragma unroll 1
  for (int bit = 62; bit >= 0; --bit) {
    rest = rest << 1 | (a >> bit & 1);
    if (rest >= b) {
      rest -= b;
      quotient |= int64_t(1) << bit;
    }
  }
  return quotient;
}

// The rows r, r + step, r + 2 * step, ... of one query.
template <typename T>
struct RowWalk {
  T* row;
  int64_t h, heads, step, to_next, to_next_batch;

  __host__ __device__ RowWalk(const Rows<T>& rows, int64_t query, int64_t r, int64_t step)
      : heads(rows.heads),
        step(step),
        to_next(step * rows.head_stride),
        to_next_batch(rows.batch_stride - rows.heads * rows.head_stride) {
    const int64_t b = divide(r, heads);
    h = r - b * heads;
    row = rows.data + b * rows.batch_stride + h * rows.head_stride + query * rows.query_stride;
  }

  __host__ __device__ T* next() {
    T* here = row;
    row += to_next;
    for (h += step; h >= heads; h -= heads) row += to_next_batch;
    return here;
  }
};

// `N` elements that are read or written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// What shared memory consists of.
using Chunk = Vector<double, VECTOR_BYTES / sizeof(double)>;

// The keys [0, head) and [tail, keys) of a row are taken one by one, the others in vectors, which
// begin at an aligned address.
template <typename T>
struct Span {
  int head, vectors, tail, ends;

  __host__ __device__ Span(const T* row, int keys) {
    const int past = reinterpret_cast<uintptr_t>(row) / sizeof(T) % WIDTH<T>;
    head = past == 0 ? 0 : WIDTH<T> - past;
    vectors = (keys - head) / WIDTH<T>;  // 0 where there are fewer keys than `head`
    tail = head + vectors * WIDTH<T>;
    ends = head + keys - tail;
  }

  // The key of one that is taken alone; e in [0, ends).
  __host__ __device__ int end(int e) const { return e < head ? e : tail + e - head; }
};

// Reads `N` ids as unsigned numbers, where negative ones are large. Their address is aligned where
// that of the values is, if the numbers of queries and keys are even or there is one row.
template <int N>
__device__ inline void load_ids(const int32_t* __restrict__ ids, uint32_t (&id)[N]) {
  constexpr int PART = N < 4 ? N : 4;
  using Part = Vector<uint32_t, PART>;
  if (reinterpret_cast<uintptr_t>(ids) % sizeof(Part) == 0) {
#pragma unroll
    for (int k = 0; k < N; k += PART) {
      const Part part = *reinterpret_cast<const Part*>(ids + k);
#pragma unroll
      for (int i = 0; i < PART; ++i) id[k + i] = part.at[i];
    }
  } else {
#pragma unroll
    for (int k = 0; k < N; ++k) id[k] = static_cast<uint32_t>(ids[k]);
  }
}

// The kernels leave ids out of range out, or replace them, remember the largest id, and complain in
// the end: an assertion for each would be more instructions than everything else.
template <int N>
__device__ inline void remember_largest(const uint32_t (&id)[N], uint32_t& largest) {
#pragma unroll
  for (int k = 0; k < N; ++k) largest = id[k] > largest ? id[k] : largest;
}

// ---- rpe_index: out[r, i, j] = table[r, i, index[i, j]] ----

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

// ---- rpe_index_sum: out[r, i, n] = sum of x[r, i, j] over the j with index[i, j] == n ----

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
