// What the CUDA kernels of the two operators share. Each input is read once and each result written
// once, in vectors of 16 bytes: a row's first and last keys, which no whole aligned vector holds, are
// taken one by one.
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

}  // namespace rpe_ops::cuda
