// rpe_index with AVX-512: a table row of up to 256 buckets is held in registers, and one
// instruction picks 16 (32) entries of 4 (2) bytes from two of them by as many ids.

#include "avx512.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "avx512_intrinsics.h"

#if defined(RPE_OPS_AVX512)

namespace rpe_ops::avx512 {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

AVX512 bool in_range(const int32_t* ids, int64_t keys, int64_t buckets) {
  __m512i largest = _mm512_setzero_si512();  // as unsigned numbers, where -1 is a large one
  for (int64_t j = 0; j < keys; j += 16) {
    const __mmask16 mask = __mmask16(first_lanes(keys - j));
    largest = _mm512_max_epu32(largest, _mm512_maskz_loadu_epi32(mask, ids + j));
  }
  return int64_t(_mm512_reduce_max_epu32(largest)) < buckets || keys == 0;
}

namespace {

// Registers as lanes of 4 or of 2 bytes.
template <int BYTES>
struct Lane;

template <>
struct Lane<4> {
  static constexpr int COUNT = 16;
  using Id = int32_t;
  AVX512_INLINE __m512i load(uint32_t mask, const void* p) {
    return _mm512_maskz_loadu_epi32(__mmask16(mask), p);
  }
  AVX512_INLINE void store(void* p, uint32_t mask, __m512i v) {
    _mm512_mask_storeu_epi32(p, __mmask16(mask), v);
  }
  AVX512_INLINE __m512i pick(__m512i low, __m512i id, __m512i high) {
    return _mm512_permutex2var_epi32(low, id, high);
  }
  AVX512_INLINE __m512i where_at_least(__m512i id, int from, __m512i picked, __m512i other) {
    return _mm512_mask_mov_epi32(other, _mm512_cmpge_epi32_mask(id, _mm512_set1_epi32(from)),
                                 picked);
  }
};

template <>
struct Lane<2> {
  static constexpr int COUNT = 32;
  using Id = int16_t;
  AVX512_INLINE __m512i load(uint32_t mask, const void* p) {
    return _mm512_maskz_loadu_epi16(mask, p);
  }
  AVX512_INLINE void store(void* p, uint32_t mask, __m512i v) {
    _mm512_mask_storeu_epi16(p, mask, v);
  }
  AVX512_INLINE __m512i pick(__m512i low, __m512i id, __m512i high) {
    return _mm512_permutex2var_epi16(low, id, high);
  }
  AVX512_INLINE __m512i where_at_least(__m512i id, int from, __m512i picked, __m512i other) {
    return _mm512_mask_mov_epi16(other, _mm512_cmpge_epi16_mask(id, _mm512_set1_epi16(from)),
                                 picked);
  }
};

template <typename L, int PAIRS>
AVX512_INLINE __m512i pick_from(const __m512i* table, __m512i id) {
  __m512i picked = L::pick(table[0], id, table[1]);
#pragma GCC unroll 8
  for (int p = 1; p < PAIRS; ++p) {
    picked = L::where_at_least(id, p * 2 * L::COUNT, L::pick(table[2 * p], id, table[2 * p + 1]),
                               picked);
  }
  return picked;
}

// out[j] = table[ids[j]]
template <int BYTES, int PAIRS>
AVX512 void lookup_row(const char* table, int64_t buckets, const typename Lane<BYTES>::Id* ids,
                       int64_t keys, char* out, bool bypass_cache) {
  using L = Lane<BYTES>;
  __m512i registers[2 * PAIRS];
#pragma GCC unroll 16
  for (int k = 0; k < 2 * PAIRS; ++k) {
    registers[k] = L::load(first_lanes(buckets - k * L::COUNT), table + k * 64);
  }
  // The first step ends where a cache line of the output begins, so that later stores fill one.
  const int64_t misaligned = reinterpret_cast<uintptr_t>(out) % 64 / BYTES;
  int64_t step = L::COUNT - misaligned;
  int64_t j = 0;
  if (step < L::COUNT && step <= keys) {
    const uint32_t mask = first_lanes(step);
    L::store(out, mask, pick_from<L, PAIRS>(registers, L::load(mask, ids)));
    j = step;
  }
  if (bypass_cache && reinterpret_cast<uintptr_t>(out + j * BYTES) % 64 == 0) {
    for (; j + L::COUNT <= keys; j += L::COUNT) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(out + j * BYTES),
                          pick_from<L, PAIRS>(registers, _mm512_loadu_si512(ids + j)));
    }
  }
  for (; j + L::COUNT <= keys; j += L::COUNT) {
    _mm512_storeu_si512(out + j * BYTES,
                        pick_from<L, PAIRS>(registers, _mm512_loadu_si512(ids + j)));
  }
  if (j < keys) {
    const uint32_t mask = first_lanes(keys - j);
    L::store(out + j * BYTES, mask, pick_from<L, PAIRS>(registers, L::load(mask, ids + j)));
  }
}

template <int BYTES>
using LookupRow = void (*)(const char*, int64_t, const typename Lane<BYTES>::Id*, int64_t, char*,
                           bool);

template <int BYTES>
LookupRow<BYTES> lookup_row_for(int64_t buckets) {
  // Each pair of registers holds 32 entries of 4 bytes, or 64 of 2.
  static constexpr LookupRow<BYTES> by_pairs[] = {
      lookup_row<BYTES, 1>, lookup_row<BYTES, 2>, lookup_row<BYTES, 3>, lookup_row<BYTES, 4>,
      lookup_row<BYTES, 5>, lookup_row<BYTES, 6>, lookup_row<BYTES, 7>, lookup_row<BYTES, 8>};
  return by_pairs[(buckets - 1) / (2 * Lane<BYTES>::COUNT)];
}

AVX512 void narrow_ids(const int32_t* ids, int64_t count, int16_t* out) {
  for (int64_t j = 0; j < count; j += 16) {
    const __mmask16 mask = __mmask16(first_lanes(count - j));
    _mm512_mask_cvtepi32_storeu_epi16(out + j, mask, _mm512_maskz_loadu_epi32(mask, ids + j));
  }
}

}  // namespace

template <typename T>
void lookup(const Lookup<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  constexpr int BYTES = sizeof(T);
  using Id = typename Lane<BYTES>::Id;
  T* row_copy = scratch.get<T>(job.buckets + (BYTES == 2 ? job.keys : 0));
  const int32_t* wide_ids = job.index + query * job.keys;
  const Id* ids;
  if constexpr (BYTES == 2) {
    Id* narrow = reinterpret_cast<Id*>(row_copy + job.buckets);
    narrow_ids(wide_ids, job.keys, narrow);
    ids = narrow;
  } else {
    ids = wide_ids;
  }
  const auto row = lookup_row_for<BYTES>(job.buckets);
  for (int64_t r = first; r < last; ++r) {
    const T* table = job.table.at(r, query);
    if (job.table.stride != 1) {
      for (int64_t n = 0; n < job.buckets; ++n) row_copy[n] = table[n * job.table.stride];
      table = row_copy;
    }
    prefetch(job.table, r, query, job.buckets);
    T* out = job.out + (r * job.queries + query) * job.keys;
    row(reinterpret_cast<const char*>(table), job.buckets, ids, job.keys,
        reinterpret_cast<char*>(out), job.bypass_cache);
  }
  if (job.bypass_cache) _mm_sfence();  // such writes are otherwise not in order with later ones
}

}  // namespace rpe_ops::avx512

#else  // another processor or compiler

namespace rpe_ops::avx512 {

bool supported() { return false; }
bool in_range(const int32_t*, int64_t, int64_t) { return false; }
template <typename T>
void lookup(const Lookup<T>&, int64_t, int64_t, int64_t, Scratch&) {}

}  // namespace rpe_ops::avx512

#endif

namespace rpe_ops::avx512 {

template void lookup(const Lookup<float>&, int64_t, int64_t, int64_t, Scratch&);
template void lookup(const Lookup<c10::Half>&, int64_t, int64_t, int64_t, Scratch&);
template void lookup(const Lookup<c10::BFloat16>&, int64_t, int64_t, int64_t, Scratch&);

}  // namespace rpe_ops::avx512
