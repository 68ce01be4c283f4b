// rpe_index_sum with AVX2: all rows of a query share its ids, so 8 rows are summed in the 8 lanes
// of a register. Blocks of 8 rows x 4 keys are transposed, then each key is one addition to the
// sums of its bucket. An addition waits for the one before where neighbours share a bucket: 4 that
// do, as in the runs of a map, are added in a register, and two groups of 8 rows take turns.

#include "avx2.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>

#include "avx2_intrinsics.h"

#if defined(RPE_OPS_AVX2)

namespace rpe_ops::avx2 {
namespace {

constexpr int LANES = 8;
// 16 rows are more streams than the processor follows on its own.
constexpr int PREFETCH_BYTES = 1024;

// How KEYS keys of 8 rows become a register each, from 16 bytes of each row; and how 8 sums of a
// row become elements.
template <typename T>
struct Element;

AVX2_INLINE void load_rows(__m256i v[4], const void* const* x, int64_t offset) {
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    v[k] = load_halves(static_cast<const char*>(x[k]) + offset,
                       static_cast<const char*>(x[k + 4]) + offset);
  }
}

template <>
struct Element<float> {
  static constexpr int KEYS = 4;
  AVX2_INLINE void unpack(__m256i v[4], __m256 key[4]) {
    transpose_4x4(v);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) key[k] = _mm256_castsi256_ps(v[k]);
  }
  AVX2_INLINE void store(float* out, __m256 v) { _mm256_storeu_ps(out, v); }
};

template <>
struct Element<c10::BFloat16> {
  static constexpr int KEYS = 8;
  AVX2_INLINE void unpack(__m256i v[4], __m256 key[8]) {
    transpose_4x4(v);  // of pairs of keys
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      key[2 * k] = _mm256_castsi256_ps(_mm256_slli_epi32(v[k], 16));
      key[2 * k + 1] =
          _mm256_castsi256_ps(_mm256_and_si256(v[k], _mm256_set1_epi32(int(0xffff0000))));
    }
  }
  AVX2_INLINE void store(c10::BFloat16* out, __m256 v) {
    // Round half to even; a NaN must not round to infinity.
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000),
                                 _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    rounded = _mm256_srli_epi32(rounded, 16);
    const __m256i packed = _mm256_packus_epi32(rounded, rounded);  // twice, in either half
    const __m256i joined = _mm256_permute4x64_epi64(packed, 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(joined));
  }
};

template <>
struct Element<c10::Half> {
  static constexpr int KEYS = 8;
  AVX2_INLINE void unpack(__m256i v[4], __m256 key[8]) {
    const __m256i low = _mm256_unpacklo_epi16(v[0], v[1]);
    const __m256i high = _mm256_unpackhi_epi16(v[0], v[1]);
    const __m256i low2 = _mm256_unpacklo_epi16(v[2], v[3]);
    const __m256i high2 = _mm256_unpackhi_epi16(v[2], v[3]);
    v[0] = _mm256_unpacklo_epi32(low, low2);
    v[1] = _mm256_unpackhi_epi32(low, low2);
    v[2] = _mm256_unpacklo_epi32(high, high2);
    v[3] = _mm256_unpackhi_epi32(high, high2);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      // Two keys, either with rows 0 to 3 in the lower half and the others in the upper one.
      const __m256i pair = _mm256_permute4x64_epi64(v[k], 0xd8);
      key[2 * k] = _mm256_cvtph_ps(_mm256_castsi256_si128(pair));
      key[2 * k + 1] = _mm256_cvtph_ps(_mm256_extracti128_si256(pair, 1));
    }
  }
  AVX2_INLINE void store(c10::Half* out, __m256 v) {
    const __m128i halves = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), halves);
  }
};

AVX2_INLINE void add_to(float* place, __m256 v) {
  _mm256_store_ps(place, _mm256_add_ps(_mm256_load_ps(place), v));
}

// Add keys of 8 rows to the sums of their buckets, which lie `distance` numbers apart.
template <int KEYS>
AVX2_INLINE void add_keys(const __m256* key, const int32_t* ids, float* sums, int64_t distance) {
#pragma GCC unroll 2
  for (int k = 0; k < KEYS; k += 4) {
    const int32_t id = ids[k];
    if (ids[k + 3] == id && ids[k + 2] == id && ids[k + 1] == id) {
      float* place = sums + int64_t(id) * distance;
      const __m256 two = _mm256_add_ps(_mm256_add_ps(_mm256_load_ps(place), key[k]), key[k + 1]);
      _mm256_store_ps(place, _mm256_add_ps(_mm256_add_ps(two, key[k + 2]), key[k + 3]));
    } else {
#pragma GCC unroll 4
      for (int i = k; i < k + 4; ++i) add_to(sums + int64_t(ids[i]) * distance, key[i]);
    }
  }
}

// Add the keys of 8 * GROUPS rows to the sums, which are (buckets, 8 * GROUPS).
template <typename T, int GROUPS>
AVX2 void add_rows(const T* const* x, const int32_t* ids, int64_t keys, float* sums) {
  using E = Element<T>;
  constexpr int ROWS = GROUPS * LANES;
  const void* const* rows = reinterpret_cast<const void* const*>(x);
  int64_t j = 0;
  for (; j + E::KEYS <= keys; j += E::KEYS) {
    if (j * sizeof(T) % 64 == 0) {
      for (int k = 0; k < ROWS; ++k) {
        _mm_prefetch(reinterpret_cast<const char*>(x[k] + j) + PREFETCH_BYTES, _MM_HINT_T0);
      }
    }
#pragma GCC unroll 2
    for (int group = 0; group < ROWS; group += LANES) {
      __m256i v[4];
      __m256 key[E::KEYS];
      load_rows(v, rows + group, j * sizeof(T));
      E::unpack(v, key);
      add_keys<E::KEYS>(key, ids + j, sums + group, ROWS);
    }
  }
  const int left = int(keys - j);
  if (left == 0) return;
  for (int group = 0; group < ROWS; group += LANES) {
    __m256i v[4];
    __m256 key[E::KEYS];
    int begin = 0;  // of those that are left
    if (keys >= E::KEYS) {
      load_rows(v, rows + group, (keys - E::KEYS) * sizeof(T));
      begin = E::KEYS - left;
    } else {
      char copies[LANES][16] = {};
      const void* places[LANES];
      for (int k = 0; k < LANES; ++k) {
        std::memcpy(copies[k], x[group + k] + j, left * sizeof(T));
        places[k] = copies[k];
      }
      load_rows(v, places, 0);
    }
    E::unpack(v, key);
    for (int k = 0; k < left; ++k) {
      add_to(sums + int64_t(ids[j + k]) * ROWS + group, key[begin + k]);
    }
  }
}

// Write the sums of the first `rows` of 8 rows, out[k] to out[k] + buckets. Those of a bucket lie
// `distance` numbers after those of the one before; there is memory for 8 buckets or more.
template <typename T>
AVX2 void store_sums(const float* sums, int64_t distance, int64_t buckets, T* const* out,
                     int rows) {
  for (int64_t n = 0; n < buckets; n += 8) {
    if (n > 0 && n > buckets - 8) n = buckets - 8;  // the last step does some once more
    const float* bucket = sums + n * distance;
    for (int row = 0; row < rows; row += 4) {
      __m256i v[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        v[k] = load_halves(bucket + k * distance + row, bucket + (k + 4) * distance + row);
      }
      transpose_4x4(v);
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const __m256 total = _mm256_castsi256_ps(v[k]);
        if (row + k >= rows) break;
        if (buckets >= 8) {
          Element<T>::store(out[row + k] + n, total);
        } else {
          char few[32];
          Element<T>::store(reinterpret_cast<T*>(few), total);
          std::memcpy(static_cast<void*>(out[row + k]), few, buckets * sizeof(T));
        }
      }
    }
  }
}

// Sum the first `rows` of 8 * GROUPS rows from `first` on.
template <typename T, int GROUPS>
void sum_rows(const BucketSum<T>& job, int64_t query, int64_t first, int rows, float* sums) {
  constexpr int ROWS = GROUPS * LANES;
  const T* x[ROWS];
  T* out[ROWS];
  for (int k = 0; k < ROWS; ++k) {
    const int64_t r = first + std::min(k, rows - 1);  // lanes without a row repeat the last
    x[k] = job.x.at(r, query);
    out[k] = job.out + (r * job.queries + query) * job.buckets;
  }
  std::fill(sums, sums + job.buckets * ROWS, 0.f);
  add_rows<T, GROUPS>(x, job.index + query * job.keys, job.keys, sums);
  for (int group = 0; group < rows; group += LANES) {
    store_sums(sums + group, ROWS, job.buckets, out + group, std::min(rows - group, LANES));
  }
}

}  // namespace

template <typename T>
void sum(const BucketSum<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  float* sums = scratch.get<float>(std::max<int64_t>(job.buckets, 8) * 2 * LANES);
  for (; first < last; first += 2 * LANES) {
    const int rows = int(std::min<int64_t>(last - first, 2 * LANES));
    if (rows > LANES) {
      sum_rows<T, 2>(job, query, first, rows, sums);
    } else {
      sum_rows<T, 1>(job, query, first, rows, sums);
    }
  }
}

}  // namespace rpe_ops::avx2

#else  // another processor or compiler

namespace rpe_ops::avx2 {

template <typename T>
void sum(const BucketSum<T>&, int64_t, int64_t, int64_t, Scratch&) {}

}  // namespace rpe_ops::avx2

#endif

namespace rpe_ops::avx2 {

template void sum(const BucketSum<float>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<c10::Half>&, int64_t, int64_t, int64_t, Scratch&);
template void sum(const BucketSum<c10::BFloat16>&, int64_t, int64_t, int64_t, Scratch&);

}  // namespace rpe_ops::avx2
