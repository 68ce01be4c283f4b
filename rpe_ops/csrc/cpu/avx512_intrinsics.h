// What the files with AVX-512 code share.
#pragma once

#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#define RPE_OPS_AVX512 1

#include <immintrin.h>

// gcc's own header makes "any value will do" from an uninitialised variable, and warns of it.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

// Only functions marked with this may use the instructions, and they call nothing but each other
// and intrinsics: the rest of the library runs on every processor.
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define AVX512_INLINE AVX512 static inline __attribute__((always_inline))

namespace rpe_ops::avx512 {

// Bits of the first `count` lanes.
static inline uint32_t first_lanes(int64_t count) {
  return count >= 32 ? ~0u : count <= 0 ? 0u : (1u << count) - 1;
}

}  // namespace rpe_ops::avx512

#endif
