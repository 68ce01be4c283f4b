// Kernels for any processor and any element type.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

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

// ---- lookup ----

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

// ---- sum ----
//
// All rows of a query share its ids. 8 rows at a time are interleaved, so that one addition of 8
// numbers does a key of them all; and the keys of a run, which follow each other and share a
// bucket, as neighbours in a map often do, are summed in registers.

constexpr int ROWS = 8;
constexpr int64_t CHUNK = 256;  // keys that are interleaved at a time: they stay in the L1 cache

struct Run {
  int32_t begin, end, bucket;  // keys [begin, end), within one chunk
};

inline int64_t find_runs(const int32_t* ids, int64_t keys, Run* runs) {
  int64_t count = 0;
  for (int64_t j = 0; j < keys; ++j) {
    if (j % CHUNK == 0 || ids[j] != ids[j - 1]) runs[count++] = {int32_t(j), 0, ids[j]};
    runs[count - 1].end = int32_t(j + 1);
  }
  return count;
}

#if defined(__SSE2__)
inline __m128 load_4(const float* x) { return _mm_loadu_ps(x); }

inline __m128 load_4(const c10::BFloat16* x) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
  return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits));
}

inline __m128 load_4(const c10::Half* x) {
  const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(x));
  const __m128i half = _mm_unpacklo_epi16(bits, _mm_setzero_si128());
  const __m128i exponent = _mm_and_si128(half, _mm_set1_epi32(0x7c00));
  const __m128i special = _mm_cmpeq_epi32(exponent, _mm_set1_epi32(0x7c00));  // infinity, NaN
  const __m128i sign = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x8000)), 16);
  // With its bits moved into place, the exponent is too small by 127 - 15.
  const __m128i moved = _mm_slli_epi32(_mm_and_si128(half, _mm_set1_epi32(0x7fff)), 13);
  const __m128 value = _mm_mul_ps(_mm_castsi128_ps(moved), _mm_set1_ps(0x1p112f));
  const __m128i infinite = _mm_and_si128(special, _mm_set1_epi32(0x7f800000));
  return _mm_or_ps(value, _mm_castsi128_ps(_mm_or_si128(sign, infinite)));
}
#endif

// out[j * ROWS + k] = x[k][j]
template <typename T, typename Acc>
void interleave(const T* const* x, int64_t keys, Acc* out) {
  int64_t j = 0;
#if defined(__SSE2__)
  if constexpr (std::is_same_v<Acc, float>) {
    for (; j + 4 <= keys; j += 4) {
      if (j % (64 / sizeof(T)) == 0) {  // 8 rows are more streams than processors like to follow
        for (int k = 0; k < ROWS; ++k) __builtin_prefetch(x[k] + j + 1024 / sizeof(T));
      }
      for (int k = 0; k < ROWS; k += 4) {
        __m128 a = load_4(x[k] + j), b = load_4(x[k + 1] + j);
        __m128 c = load_4(x[k + 2] + j), d = load_4(x[k + 3] + j);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        _mm_store_ps(out + j * ROWS + k, a);
        _mm_store_ps(out + (j + 1) * ROWS + k, b);
        _mm_store_ps(out + (j + 2) * ROWS + k, c);
        _mm_store_ps(out + (j + 3) * ROWS + k, d);
      }
    }
  }
#endif
  for (; j < keys; ++j) {
    for (int k = 0; k < ROWS; ++k) out[j * ROWS + k] = static_cast<Acc>(x[k][j]);
  }
}

template <typename T>
void sum(const BucketSum<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  using Acc = Accumulate<T>;
  const int64_t space_for_runs = job.keys * sizeof(Run) / sizeof(Acc) + 1;
  Acc* sums = scratch.get<Acc>(job.buckets * ROWS + CHUNK * ROWS + space_for_runs);
  Acc* interleaved = sums + job.buckets * ROWS;
  Run* runs = reinterpret_cast<Run*>(interleaved + CHUNK * ROWS);
  const Run* end_of_runs = runs + find_runs(job.index + query * job.keys, job.keys, runs);

  for (; first < last; first += ROWS) {
    const int rows = int(std::min<int64_t>(last - first, ROWS));
    const T* x[ROWS];
    // Where rows are left over, the last one is done again.
    for (int k = 0; k < ROWS; ++k) x[k] = job.x.at(first + std::min(k, rows - 1), query);
    std::fill(sums, sums + job.buckets * ROWS, Acc(0));
    const Run* run = runs;
    for (int64_t begin = 0; begin < job.keys; begin += CHUNK) {
      const int64_t end = std::min(begin + CHUNK, job.keys);
      interleave(x, end - begin, interleaved);
      for (int k = 0; k < ROWS; ++k) x[k] += CHUNK;
      for (; run != end_of_runs && run->begin < end; ++run) {
        Acc* bucket = sums + int64_t(run->bucket) * ROWS;
        Acc total[ROWS];
        for (int k = 0; k < ROWS; ++k) total[k] = bucket[k];
        for (int64_t j = run->begin - begin; j < run->end - begin; ++j) {
          for (int k = 0; k < ROWS; ++k) total[k] += interleaved[j * ROWS + k];
        }
        for (int k = 0; k < ROWS; ++k) bucket[k] = total[k];
      }
    }
    for (int k = 0; k < rows; ++k) {
      T* out = job.out + ((first + k) * job.queries + query) * job.buckets;
      for (int64_t n = 0; n < job.buckets; ++n) out[n] = static_cast<T>(sums[n * ROWS + k]);
    }
  }
}

}  // namespace rpe_ops::portable
