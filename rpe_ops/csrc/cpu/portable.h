// Kernels for any processor and any element type.
#pragma once

#include <algorithm>
#include <type_traits>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "kernels.h"

namespace rpe_ops::portable {

// Sums of float16 and bfloat16 are kept in float32.
template <typename T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Whether each of the ids is in [0, buckets).
inline bool in_range(const int32_t* ids, int64_t keys, int64_t buckets) {
  bool good = true;
  for (int64_t j = 0; j < keys; ++j) good &= uint32_t(ids[j]) < uint64_t(buckets);
  return good;
}

// Entries of `table` for 16 bytes of output, as few instructions as SSE2 allows.
#if defined(__SSE2__)
template <typename T>
__m128i pick_16_bytes(const T* table, const int32_t* ids) {
  if constexpr (sizeof(T) == 8) {
    auto at = [&](int k) { return reinterpret_cast<const int64_t*>(table)[ids[k]]; };
    return _mm_set_epi64x(at(1), at(0));
  } else if constexpr (sizeof(T) == 4) {
    auto at = [&](int k) { return reinterpret_cast<const float*>(table)[ids[k]]; };
    return _mm_castps_si128(_mm_set_ps(at(3), at(2), at(1), at(0)));
  } else {
    static_assert(sizeof(T) == 2);
    auto at = [&](int k) { return reinterpret_cast<const int16_t*>(table)[ids[k]]; };
    return _mm_set_epi16(at(7), at(6), at(5), at(4), at(3), at(2), at(1), at(0));
  }
}
#endif

// out[j] = table[ids[j]]
template <typename T>
void lookup_row(const T* table, const int32_t* ids, int64_t keys, T* out, bool bypass_cache) {
  int64_t j = 0;
#if defined(__SSE2__)
  if (bypass_cache) {
    constexpr int STEP = 16 / sizeof(T);
    while (j < keys && reinterpret_cast<uintptr_t>(out + j) % 16 != 0) {
      out[j] = table[ids[j]];
      ++j;
    }
    for (; j + STEP <= keys; j += STEP) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + j), pick_16_bytes(table, ids + j));
    }
  }
#endif
  for (; j < keys; ++j) out[j] = table[ids[j]];
}

template <typename T>
void lookup(const Lookup<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  const int32_t* ids = job.index + query * job.keys;
  for (int64_t r = first; r < last; ++r) {
    const T* table = job.table.at(r, query);
    if (job.table.stride != 1) {
      T* copy = scratch.get<T>(job.buckets);
      for (int64_t n = 0; n < job.buckets; ++n) copy[n] = table[n * job.table.stride];
      table = copy;
    }
    prefetch(job.table, r, query, job.buckets);
    T* out = job.out + (r * job.queries + query) * job.keys;
    lookup_row(table, ids, job.keys, out, job.bypass_cache);
  }
#if defined(__SSE2__)
  if (job.bypass_cache) _mm_sfence();  // such writes are otherwise not in order with later ones
#endif
}

// The keys [begin, end) of a query that follow each other and share a bucket.
struct Run {
  int32_t begin, end, bucket;
};

// Neighbours in a map are often in one bucket. A run's sum stays in registers, and the runs of
// ROWS rows, which do not wait for each other, are summed side by side.
template <int ROWS, typename T>
void sum_rows(const BucketSum<T>& job, int64_t query, int64_t first, const Run* runs,
              int64_t num_runs, Accumulate<T>* sums) {
  using Acc = Accumulate<T>;
  const T* x[ROWS];
  for (int k = 0; k < ROWS; ++k) x[k] = job.x.at(first + k, query);
  std::fill(sums, sums + job.buckets * ROWS, Acc(0));
  for (const Run* run = runs; run != runs + num_runs; ++run) {
    Acc* bucket = sums + int64_t(run->bucket) * ROWS;
    Acc total[ROWS];
    for (int k = 0; k < ROWS; ++k) total[k] = bucket[k];
    for (int64_t j = run->begin; j < run->end; ++j) {
      for (int k = 0; k < ROWS; ++k) total[k] += static_cast<Acc>(x[k][j]);
    }
    for (int k = 0; k < ROWS; ++k) bucket[k] = total[k];
  }
  for (int k = 0; k < ROWS; ++k) {
    T* out = job.out + ((first + k) * job.queries + query) * job.buckets;
    for (int64_t n = 0; n < job.buckets; ++n) out[n] = static_cast<T>(sums[n * ROWS + k]);
  }
}

template <typename T>
void sum(const BucketSum<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  constexpr int ROWS = 8;
  using Acc = Accumulate<T>;
  auto* sums = scratch.get<Acc>(job.buckets * ROWS + (job.keys * sizeof(Run)) / sizeof(Acc) + 1);
  auto* runs = reinterpret_cast<Run*>(sums + job.buckets * ROWS);
  const int32_t* ids = job.index + query * job.keys;
  int64_t num_runs = 0;
  for (int64_t j = 0; j < job.keys; ++j) {
    if (j == 0 || ids[j] != ids[j - 1]) {
      runs[num_runs++] = {int32_t(j), int32_t(j + 1), ids[j]};
    } else {
      runs[num_runs - 1].end = int32_t(j + 1);
    }
  }
  for (; first + ROWS <= last; first += ROWS) sum_rows<ROWS>(job, query, first, runs, num_runs, sums);
  for (; first < last; ++first) sum_rows<1>(job, query, first, runs, num_runs, sums);
}

}  // namespace rpe_ops::portable
