// What the files with AVX2 code share.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define RPE_OPS_AVX2 1

#include <immintrin.h>

// Only functions marked with this may use the instructions, and they call nothing but each other,
// intrinsics and the C library: the rest of the library runs on every processor.
#define AVX2 __attribute__((target("avx2,f16c")))
#define AVX2_INLINE AVX2 static inline __attribute__((always_inline))

namespace rpe_ops::avx2 {

// 16 bytes from each of two places.
AVX2_INLINE __m256i load_halves(const void* low, const void* high) {
  const __m128i first = _mm_loadu_si128(static_cast<const __m128i*>(low));
  const __m128i second = _mm_loadu_si128(static_cast<const __m128i*>(high));
  return _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
}

// In either half of the registers, of 4 bytes each: v[i] lane k -> v[k] lane i.
AVX2_INLINE void transpose_4x4(__m256i v[4]) {
  const __m256i low = _mm256_unpacklo_epi32(v[0], v[1]);
  const __m256i high = _mm256_unpackhi_epi32(v[0], v[1]);
  const __m256i low2 = _mm256_unpacklo_epi32(v[2], v[3]);
  const __m256i high2 = _mm256_unpackhi_epi32(v[2], v[3]);
  v[0] = _mm256_unpacklo_epi64(low, low2);
  v[1] = _mm256_unpackhi_epi64(low, low2);
  v[2] = _mm256_unpacklo_epi64(high, high2);
  v[3] = _mm256_unpackhi_epi64(high, high2);
}

// In either half of the registers, of 2 bytes each: v[i] lane k -> v[k] lane i.
AVX2_INLINE void transpose_8x8(__m256i v[8]) {
  __m256i low[4], high[4];  // pairs of rows, lanes 0 to 3 and 4 to 7
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    low[k] = _mm256_unpacklo_epi16(v[2 * k], v[2 * k + 1]);
    high[k] = _mm256_unpackhi_epi16(v[2 * k], v[2 * k + 1]);
  }
  transpose_4x4(low);
  transpose_4x4(high);
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    v[k] = low[k];
    v[k + 4] = high[k];
  }
}

}  // namespace rpe_ops::avx2

#endif
