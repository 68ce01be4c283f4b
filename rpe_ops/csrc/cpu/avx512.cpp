#include "avx512.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

// gcc's own header makes "any value will do" from an uninitialised variable, and warns of it.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

// Only the functions marked with AVX512 may use these instructions, and they call nothing but
// each other and intrinsics: the rest of the library runs on every processor.
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define AVX512_INLINE AVX512 static inline __attribute__((always_inline))

namespace rpe_ops::avx512 {

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

namespace {

// Bits of the first `count` lanes.
inline uint32_t first_lanes(int64_t count) {
  return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
}

// ---- lookup ----
//
// A table row of up to 256 buckets is held in registers, and one instruction picks 16 (32)
// entries of 4 (2) bytes from two of them by 16 (32) ids.

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

AVX512 bool in_range(const int32_t* ids, int64_t keys, int64_t buckets) {
  __m512i largest = _mm512_setzero_si512();  // as unsigned numbers, where -1 is a large one
  for (int64_t j = 0; j < keys; j += 16) {
    const __mmask16 mask = __mmask16(first_lanes(keys - j));
    largest = _mm512_max_epu32(largest, _mm512_maskz_loadu_epi32(mask, ids + j));
  }
  return int64_t(_mm512_reduce_max_epu32(largest)) < buckets || keys == 0;
}

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

// ---- sum ----
//
// All rows of a query share its ids, so 16 rows are summed in the 16 lanes of a register: blocks
// of 16 rows x 16 keys are transposed, then each key is one addition to the sums of its bucket.
// Any ids do, in no time that depends on them. Two sets of sums take turns, because an addition
// would otherwise wait for the one before whenever neighbours share a bucket.

namespace {

constexpr int ROWS = 16;
constexpr int PREFETCH_BYTES = 512;

// v[row] lane key -> v[key] lane row.
AVX512_INLINE void transpose(__m512i v[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int k = 0; k < 16; k += 2) {
    t[k] = _mm512_unpacklo_epi32(v[k], v[k + 1]);
    t[k + 1] = _mm512_unpackhi_epi32(v[k], v[k + 1]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 16; k += 4) {
    v[k] = _mm512_unpacklo_epi64(t[k], t[k + 2]);
    v[k + 1] = _mm512_unpackhi_epi64(t[k], t[k + 2]);
    v[k + 2] = _mm512_unpacklo_epi64(t[k + 1], t[k + 3]);
    v[k + 3] = _mm512_unpackhi_epi64(t[k + 1], t[k + 3]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    const __m512i low = _mm512_shuffle_i32x4(v[k], v[k + 4], 0x88);
    const __m512i high = _mm512_shuffle_i32x4(v[k], v[k + 4], 0xdd);
    const __m512i low2 = _mm512_shuffle_i32x4(v[k + 8], v[k + 12], 0x88);
    const __m512i high2 = _mm512_shuffle_i32x4(v[k + 8], v[k + 12], 0xdd);
    t[k] = _mm512_shuffle_i32x4(low, low2, 0x88);
    t[k + 4] = _mm512_shuffle_i32x4(high, high2, 0x88);
    t[k + 8] = _mm512_shuffle_i32x4(low, low2, 0xdd);
    t[k + 12] = _mm512_shuffle_i32x4(high, high2, 0xdd);
  }
#pragma GCC unroll 16
  for (int k = 0; k < 16; ++k) v[k] = t[k];
}

AVX512_INLINE void add_to(float* sums, __m512 v) {
  _mm512_store_ps(sums, _mm512_add_ps(_mm512_load_ps(sums), v));
}

// How 4 bytes of a row become numbers, and sums become elements. KEYS are in 4 bytes.
template <typename T>
struct Element;

template <>
struct Element<float> {
  static constexpr int KEYS = 1;
  AVX512_INLINE __m512 first(__m512i v) { return _mm512_castsi512_ps(v); }
  AVX512_INLINE void store(float* out, __mmask16 mask, __m512 v) {
    _mm512_mask_storeu_ps(out, mask, v);
  }
};

template <>
struct Element<c10::BFloat16> {
  static constexpr int KEYS = 2;
  AVX512_INLINE __m512 first(__m512i v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
  }
  AVX512_INLINE __m512 second(__m512i v) {
    return _mm512_castsi512_ps(_mm512_and_epi32(v, _mm512_set1_epi32(0xffff0000)));
  }
  AVX512_INLINE void store(c10::BFloat16* out, __mmask16 mask, __m512 v) {
    // Round half to even; a NaN must not round to infinity.
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_epi32(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                                    _mm512_set1_epi32(0x7fc00000));
    _mm512_mask_cvtepi32_storeu_epi16(out, mask, _mm512_srli_epi32(rounded, 16));
  }
};

template <>
struct Element<c10::Half> {
  static constexpr int KEYS = 2;
  AVX512_INLINE __m512 first(__m512i v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }
  AVX512_INLINE __m512 second(__m512i v) { return first(_mm512_srli_epi32(v, 16)); }
  AVX512_INLINE void store(c10::Half* out, __mmask16 mask, __m512 v) {
    _mm256_mask_storeu_epi16(out, mask,
                             _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

// Add `keys` keys of 16 rows to the two sets of sums, (buckets, 2, 16).
template <typename T>
AVX512 void add_rows(const T* const* x, const int32_t* ids, int64_t keys, float* sums) {
  using E = Element<T>;
  constexpr int BLOCK = 16 * E::KEYS;
  __m512i v[16];
  int64_t j = 0;
  for (; j + BLOCK <= keys; j += BLOCK) {
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) {
      v[k] = _mm512_loadu_si512(x[k] + j);
      // 16 rows are more streams than the processor follows on its own. Past the end is harmless.
      _mm_prefetch(reinterpret_cast<const char*>(x[k] + j) + PREFETCH_BYTES, _MM_HINT_T0);
    }
    transpose(v);
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) {
      if constexpr (E::KEYS == 1) {
        add_to(sums + (ids[j + k] * 2 + k % 2) * int64_t(ROWS), E::first(v[k]));
      } else {
        add_to(sums + (ids[j + 2 * k] * 2) * int64_t(ROWS), E::first(v[k]));
        add_to(sums + (ids[j + 2 * k + 1] * 2 + 1) * int64_t(ROWS), E::second(v[k]));
      }
    }
  }
  if (j < keys) {
    const int64_t left = keys - j;
    for (int k = 0; k < 16; ++k) {
      v[k] = E::KEYS == 1 ? _mm512_maskz_loadu_epi32(__mmask16(first_lanes(left)), x[k] + j)
                          : _mm512_maskz_loadu_epi16(first_lanes(left), x[k] + j);
    }
    transpose(v);
    for (int k = 0; k * E::KEYS < left; ++k) {
      add_to(sums + ids[j + k * E::KEYS] * int64_t(2 * ROWS), E::first(v[k]));
      if constexpr (E::KEYS == 2) {
        if (2 * k + 1 < left) add_to(sums + (ids[j + 2 * k + 1] * 2 + 1) * int64_t(ROWS), E::second(v[k]));
      }
    }
  }
}

// Write the sums of the first `rows` rows, out[k] to out[k] + buckets.
template <typename T>
AVX512 void store_sums(const float* sums, int64_t buckets, T* const* out, int rows) {
  for (int64_t n = 0; n < buckets; n += 16) {
    const __mmask16 mask = __mmask16(first_lanes(buckets - n));
    __m512i v[16];
    for (int k = 0; k < 16; ++k) {
      const float* bucket = sums + (n + k) * 2 * ROWS;
      v[k] = n + k < buckets ? _mm512_castps_si512(_mm512_add_ps(_mm512_load_ps(bucket),
                                                                 _mm512_load_ps(bucket + ROWS)))
                             : _mm512_setzero_si512();
    }
    transpose(v);
    for (int k = 0; k < rows; ++k) Element<T>::store(out[k] + n, mask, _mm512_castsi512_ps(v[k]));
  }
}

AVX512 void set_zero(float* sums, int64_t vectors) {
  for (int64_t k = 0; k < vectors; ++k) _mm512_store_ps(sums + k * 16, _mm512_setzero_ps());
}

}  // namespace

template <typename T>
void sum(const BucketSum<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  float* sums = scratch.get<float>(job.buckets * 2 * ROWS);
  const int32_t* ids = job.index + query * job.keys;
  for (; first < last; first += ROWS) {
    const int rows = int(last - first < ROWS ? last - first : ROWS);
    const T* x[ROWS];
    T* out[ROWS];
    for (int k = 0; k < ROWS; ++k) {
      const int64_t r = first + (k < rows ? k : 0);  // lanes without a row repeat the first
      x[k] = job.x.at(r, query);
      out[k] = job.out + (r * job.queries + query) * job.buckets;
    }
    set_zero(sums, job.buckets * 2);
    add_rows(x, ids, job.keys, sums);
    store_sums(sums, job.buckets, out, rows);
  }
}

}  // namespace rpe_ops::avx512

#else  // not an x86 processor, or another compiler

namespace rpe_ops::avx512 {

bool supported() { return false; }
bool in_range(const int32_t*, int64_t, int64_t) { return false; }

template <typename T>
void lookup(const Lookup<T>&, int64_t, int64_t, int64_t, Scratch&) {}
template <typename T>
void sum(const BucketSum<T>&, int64_t, int64_t, int64_t, Scratch&) {}

}  // namespace rpe_ops::avx512

#endif

namespace rpe_ops::avx512 {

template void lookup(const Lookup<float>&, int64_t, int64_t, int64_t, Scratch&);
template void lookup(const Lookup<c10::Half>&, int64_t, int64_t, int64_t, Scratch&);
template void lookup(const Lookup<c10::BFloat16>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<float>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<c10::Half>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<c10::BFloat16>&, int64_t, int64_t, int64_t, Scratch&);

}  // namespace rpe_ops::avx512
