// rpe_index_sum with AVX-512: all rows of a query share its ids, so 16 rows are summed in the 16
// lanes of a register. Blocks of 16 rows x 16 keys are transposed, then each key is one addition
// to the sums of its bucket, whatever the ids. Two sets of sums take turns, because an addition
// would otherwise wait for the one before whenever neighbours share a bucket.

#include "avx512.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "avx512_intrinsics.h"

#if defined(RPE_OPS_AVX512)

namespace rpe_ops::avx512 {
namespace {

constexpr int ROWS = 16;
// 16 rows are more streams than the processor follows on its own.
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

// The sums are (buckets, 2 sets, 16 rows).
AVX512_INLINE void add_to(float* sums, int64_t bucket, int set, __m512 v) {
  float* place = sums + (bucket * 2 + set) * ROWS;
  _mm512_store_ps(place, _mm512_add_ps(_mm512_load_ps(place), v));
}

// How 4 bytes of a row become the numbers of KEYS keys, and sums become elements.
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

// Add the keys of 16 rows to the sums.
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
      _mm_prefetch(reinterpret_cast<const char*>(x[k] + j) + PREFETCH_BYTES, _MM_HINT_T0);
    }
    transpose(v);
#pragma GCC unroll 16
    for (int k = 0; k < 16; ++k) {
      if constexpr (E::KEYS == 1) {
        add_to(sums, ids[j + k], k % 2, E::first(v[k]));
      } else {
        add_to(sums, ids[j + 2 * k], 0, E::first(v[k]));
        add_to(sums, ids[j + 2 * k + 1], 1, E::second(v[k]));
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
      add_to(sums, ids[j + k * E::KEYS], 0, E::first(v[k]));
      if constexpr (E::KEYS == 2) {
        if (2 * k + 1 < left) add_to(sums, ids[j + 2 * k + 1], 1, E::second(v[k]));
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

#else  // another processor or compiler

namespace rpe_ops::avx512 {

template <typename T>
void sum(const BucketSum<T>&, int64_t, int64_t, int64_t, Scratch&) {}

}  // namespace rpe_ops::avx512

#endif

namespace rpe_ops::avx512 {

template void sum(const BucketSum<float>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<c10::Half>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<c10::BFloat16>&, int64_t, int64_t, int64_t, Scratch&);

}  // namespace rpe_ops::avx512
