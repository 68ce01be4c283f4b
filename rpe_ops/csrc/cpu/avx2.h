// Kernels for x86 processors with AVX2 and F16C, chosen at run time where there is no AVX-512.
#pragma once

#include "kernels.h"

namespace rpe_ops::avx2 {

// Whether this processor has what the kernels need; false where they were not compiled.
bool supported();

// Whether each of the ids is in [0, buckets).
bool in_range(const int32_t* ids, int64_t keys, int64_t buckets);

// Element types of 2 and 4 bytes; the values are moved, not looked at.
template <typename T>
void lookup(const Lookup<T>&, int64_t query, int64_t first, int64_t last, Scratch&);

// T is float, c10::Half or c10::BFloat16. Adds in the order of the portable kernel: same results.
template <typename T>
void sum(const BucketSum<T>&, int64_t query, int64_t first, int64_t last, Scratch&);

}  // namespace rpe_ops::avx2
