// The CUDA kernels of the two operators. Both are bound by memory: what counts is that each
// input is read once, with wide accesses, and that many are under way.
#pragma once

#include <cstdint>
#include <type_traits>

namespace rpe_ops {

// A GPU divides numbers of 64 bits many times slower than those of 32, which most are.
__host__ __device__ inline int64_t divide(int64_t a, int64_t b) {
  return ((a | b) >> 32) == 0 ? int64_t(uint32_t(a) / uint32_t(b)) : a / b;
}

// A tensor (B, H, Lq, *) with any strides, counted in elements; r = b * H + h.
template <typename T>
struct Rows {
  T* data;
  int64_t heads;
  int64_t batch_stride, head_stride, query_stride, stride;
};

// The rows of one query, r after r.
template <typename T>
struct RowWalk {
  const Rows<T>& rows;
  int64_t query, b, h;

  __host__ __device__ RowWalk(const Rows<T>& rows, int64_t query, int64_t r)
      : rows(rows), query(query), b(divide(r, rows.heads)), h(r - b * rows.heads) {}

  __host__ __device__ T* next() {
    T* row = rows.data + b * rows.batch_stride + h * rows.head_stride + query * rows.query_stride;
    if (++h == rows.heads) {
      h = 0;
      ++b;
    }
    return row;
  }
};

// `N` elements that are read or written at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T at[N];
};

// float16 and bfloat16 are summed in float32.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

// ---- rpe_index: out[r, i, j] = table[r, i, index[i, j]] ----

constexpr int LOOKUP_THREADS = 256;
constexpr int LOOKUP_ROWS = 8;  // r that share the reading of an id

// A thread takes WIDTH keys of a query, for LOOKUP_ROWS r at a time; blocks of threads tile the
// index (x) and the r (y). WIDTH divides the number of keys, and all addresses are aligned to it.
template <typename T, int WIDTH>
__global__ void __launch_bounds__(LOOKUP_THREADS)
    lookup_kernel(Rows<const T> table, const int32_t* __restrict__ index, T* __restrict__ out,
                  int64_t rows, int64_t queries, int64_t keys, int64_t buckets) {
  const int64_t steps_per_query = keys / WIDTH;
  const int64_t steps = queries * steps_per_query;
  const int64_t stride = int64_t(gridDim.x) * LOOKUP_THREADS;
  for (int64_t step = int64_t(blockIdx.x) * LOOKUP_THREADS + threadIdx.x; step < steps;
       step += stride) {
    const int64_t query = divide(step, steps_per_query);
    const auto ids = reinterpret_cast<const Vector<int32_t, WIDTH>*>(index)[step];
    int64_t offsets[WIDTH];
#pragma unroll
    for (int k = 0; k < WIDTH; ++k) {
      CUDA_KERNEL_ASSERT(ids.at[k] >= 0 && ids.at[k] < buckets && "index out of range");
      offsets[k] = ids.at[k] * table.stride;
    }
    for (int64_t first = int64_t(blockIdx.y) * LOOKUP_ROWS; first < rows;
         first += int64_t(gridDim.y) * LOOKUP_ROWS) {
      // All reads first, so that none waits for another.
      Vector<T, WIDTH> picked[LOOKUP_ROWS];
      RowWalk<const T> walk(table, query, first);
#pragma unroll
      for (int r = 0; r < LOOKUP_ROWS; ++r) {
        if (first + r < rows) {
          const T* row = walk.next();
#pragma unroll
          for (int k = 0; k < WIDTH; ++k) picked[r].at[k] = row[offsets[k]];
        }
      }
#pragma unroll
      for (int r = 0; r < LOOKUP_ROWS; ++r) {
        if (first + r < rows) {
          T* row = out + (first + r) * queries * keys;
          reinterpret_cast<Vector<T, WIDTH>*>(row)[step] = picked[r];
        }
      }
    }
  }
}

// ---- rpe_index_sum: out[r, i, n] = sum of x[r, i, j] over the j with index[i, j] == n ----

constexpr int WARP = 32;
constexpr int KEYS_IN_FLIGHT = 8;  // of each thread

// Buckets that a warp sums in one pass over its row: what fits into `shared_bytes`.
template <typename T>
__host__ __device__ constexpr int64_t buckets_in(int64_t shared_bytes) {
  return shared_bytes / (WARP * int64_t(sizeof(Accumulate<T>)));
}

// A warp takes one row (r, query). Every thread sums its keys into buckets of its own, a column
// of shared memory, and then each takes some buckets and adds up their 32 columns: always in the
// same order, so the same input gives the same bits, without atomics. Where shared memory has
// room for `pass` buckets only, the row is read again for the next ones.
template <typename T, int WIDTH>
__global__ void bucket_sum_kernel(Rows<const T> x, const int32_t* __restrict__ index,
                                  T* __restrict__ out, int64_t rows, int64_t queries,
                                  int64_t keys, int64_t buckets, int64_t pass) {
  using Acc = Accumulate<T>;
  using Ids = Vector<int32_t, WIDTH>;
  using Values = Vector<T, WIDTH>;
  constexpr int STEPS = KEYS_IN_FLIGHT / WIDTH;
  extern __shared__ double shared_memory[];
  const int lane = threadIdx.x % WARP;
  const int64_t warps = blockDim.x / WARP;
  Acc* sums = reinterpret_cast<Acc*>(shared_memory) + (threadIdx.x / WARP) * pass * WARP;

  // The warps of a block, and neighbouring blocks, take the r of one query, which share its ids.
  const int64_t stride = gridDim.x * warps;
  for (int64_t row = blockIdx.x * warps + threadIdx.x / WARP; row < rows * queries;
       row += stride) {
    const int64_t query = divide(row, rows);
    const int64_t r = row - query * rows;
    const T* values = RowWalk<const T>(x, query, r).next();
    const int32_t* ids = index + query * keys;
    for (int64_t low = 0; low < buckets; low += pass) {
      const int64_t count = buckets - low < pass ? buckets - low : pass;
      for (int64_t n = 0; n < count; ++n) sums[n * WARP + lane] = Acc(0);

      for (int64_t begin = 0; begin < keys; begin += int64_t(WARP) * KEYS_IN_FLIGHT) {
        Ids id[STEPS];
        Values value[STEPS];
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          const int64_t j = begin + (s * WARP + lane) * WIDTH;
          if (j < keys) {
            id[s] = *reinterpret_cast<const Ids*>(ids + j);
            value[s] = *reinterpret_cast<const Values*>(values + j);
          }
        }
#pragma unroll
        for (int s = 0; s < STEPS; ++s) {
          const int64_t j = begin + (s * WARP + lane) * WIDTH;
          if (j >= keys) continue;
          // Neighbours are often in one bucket: they are added up before memory is touched.
          int64_t bucket = id[s].at[0];
          Acc total = static_cast<Acc>(value[s].at[0]);
#pragma unroll
          for (int k = 0; k < WIDTH; ++k) {
            CUDA_KERNEL_ASSERT(id[s].at[k] >= 0 && id[s].at[k] < buckets && "index out of range");
            if (k == 0) continue;
            if (id[s].at[k] != bucket) {
              if (bucket >= low && bucket < low + count) {
                sums[(bucket - low) * WARP + lane] += total;
              }
              bucket = id[s].at[k];
              total = Acc(0);
            }
            total += static_cast<Acc>(value[s].at[k]);
          }
          if (bucket >= low && bucket < low + count) sums[(bucket - low) * WARP + lane] += total;
        }
      }
      __syncwarp();
      for (int64_t n = lane; n < count; n += WARP) {
        Acc total = Acc(0);
        // Each thread begins at another column, or all would wait for one bank of memory.
        for (int k = 0; k < WARP; ++k) total += sums[n * WARP + (k + lane) % WARP];
        out[(r * queries + query) * buckets + low + n] = static_cast<T>(total);
      }
      __syncwarp();
    }
  }
}

// ---- how wide accesses can be ----

// The largest power of two, at most `limit`, that divides all the numbers.
template <typename... Numbers>
int common_width(int limit, Numbers... numbers) {
  int width = limit;
  while (width > 1 && !((int64_t(numbers) % width == 0) && ...)) width /= 2;
  return width;
}

}  // namespace rpe_ops
