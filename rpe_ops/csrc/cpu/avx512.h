// Kernels for x86 processors with AVX-512 (F, BW, DQ, VL), chosen at run time.
#pragma once

#include "kernels.h"

namespace rpe_ops::avx512 {

// Whether this processor has what the kernels need; false where they were not compiled.
bool supported();

// Whether each of the ids is in [0, buckets).
bool in_range(const int32_t* ids, int64_t keys, int64_t buckets);

// Element types of 2 and 4 bytes; the values are moved, not looked at.
template <typename T>
void lookup(const Lookup<T>&, int64_t query, int64_t first, int64_t last, Scratch&);

// T is float, c10::Half or c10::BFloat16.
template <typename T>
void sum(const BucketSum<T>&, int64_t query, int64_t first, int64_t last, Scratch&);

// lookup() takes at most this many buckets: as many as fit into registers.
constexpr int64_t MAX_BUCKETS = 256;

}  // namespace rpe_ops::avx512
