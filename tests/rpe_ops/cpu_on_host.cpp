// Each set of CPU kernels that this processor can run, called directly, against loops. Compiled
// with sanitizers; writes past the caches, which these do not see, are found by what lies around.

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "../../rpe_ops/csrc/cpu/avx2.h"
#include "../../rpe_ops/csrc/cpu/avx512.h"
#include "../../rpe_ops/csrc/cpu/portable.h"

using namespace rpe_ops;

namespace {

uint32_t state = 1;

uint32_t draw() {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

// Exactly as long as asked for: a sanitizer sees the first access outside.
template <typename T>
struct Array {
  std::unique_ptr<T[]> data;
  int64_t count;
  explicit Array(int64_t n) : data(new T[n]), count(n) {}
  T* get() { return data.get(); }
  T& operator[](int64_t k) { return data[k]; }
};

template <typename T>
void draw_bits(Array<T>& a) {
  for (int64_t k = 0; k < a.count; ++k) {
    const uint32_t bits = draw() << 8 ^ draw();
    std::memcpy(static_cast<void*>(&a[k]), &bits, sizeof(T));
  }
}

template <typename T>
void draw_numbers(Array<T>& a) {
  for (int64_t k = 0; k < a.count; ++k) {
    const uint32_t kind = draw() % 1000;
    const float number = (float(draw() % 4096) - 2048.f) * std::ldexp(1.f, -int(draw() % 30));
    a[k] = T(kind == 0 ? std::numeric_limits<float>::infinity() : number);
  }
}

// Runs, as neighbours in a map have them, and single keys.
void draw_ids(Array<int32_t>& ids, int64_t buckets) {
  for (int64_t k = 0; k < ids.count; ++k) {
    ids[k] = k > 0 && draw() % 4 != 0 ? ids[k - 1] : int32_t(draw() % buckets);
  }
}

struct Sizes {
  int64_t rows, keys, buckets;
};

void fail(const char* kernels, const char* what, const Sizes& s, int variant) {
  std::printf("%s %s: rows %d keys %d buckets %d variant %d\n", kernels, what, int(s.rows),
              int(s.keys), int(s.buckets), variant);
  std::exit(1);
}

constexpr int64_t QUERIES = 2, AROUND = 80;

template <typename T>
void check_lookup(const char* name, LookupKernel<T> kernel, const Sizes& s, int variant) {
  const bool bypass_cache = variant % 2;
  const int64_t stride = variant / 2 % 3 == 2 ? 2 : 1, shift = variant % 37;
  Array<T> table(s.rows * QUERIES * s.buckets * stride);
  Array<int32_t> ids(QUERIES * s.keys);
  Array<T> out(s.rows * QUERIES * s.keys + AROUND);
  draw_bits(table);
  draw_ids(ids, s.buckets);
  std::memset(static_cast<void*>(out.get()), 0x55, out.count * sizeof(T));
  const int64_t query_stride = s.buckets * stride;
  const Lookup<T> job{{table.get(), s.rows, 0, QUERIES * query_stride, query_stride, stride},
                      ids.get(), out.get() + shift, QUERIES, s.keys, s.buckets, bypass_cache};
  Scratch scratch;
  for (int64_t i = 0; i < QUERIES; ++i) kernel(job, i, 0, s.rows, scratch);
  Array<T> wanted(out.count);
  std::memset(static_cast<void*>(wanted.get()), 0x55, out.count * sizeof(T));
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t i = 0; i < QUERIES; ++i) {
      for (int64_t j = 0; j < s.keys; ++j) {
        wanted[shift + (r * QUERIES + i) * s.keys + j] =
            table[((r * QUERIES + i) * s.buckets + ids[i * s.keys + j]) * stride];
      }
    }
  }
  if (std::memcmp(out.get(), wanted.get(), out.count * sizeof(T)) != 0) {
    fail(name, "lookup", s, variant);
  }
}

// In the order of the keys, to the bit; in any order within a tolerance.
template <typename T>
void check_sum(const char* name, BucketSumKernel<T> kernel, const Sizes& s, bool in_order) {
  Array<T> x(s.rows * QUERIES * s.keys);
  Array<int32_t> ids(QUERIES * s.keys);
  Array<T> out(s.rows * QUERIES * s.buckets);
  draw_numbers(x);
  draw_ids(ids, s.buckets);
  const BucketSum<T> job{{x.get(), s.rows, 0, QUERIES * s.keys, s.keys, 1}, ids.get(), out.get(),
                         QUERIES, s.keys, s.buckets};
  Scratch scratch;
  for (int64_t i = 0; i < QUERIES; ++i) kernel(job, i, 0, s.rows, scratch);
  const float tolerance = sizeof(T) == 4 ? 1e-5f : 1e-2f;
  for (int64_t row = 0; row < s.rows * QUERIES; ++row) {
    Array<float> wanted(s.buckets), sizes(s.buckets);
    for (int64_t n = 0; n < s.buckets; ++n) wanted[n] = sizes[n] = 0;
    for (int64_t j = 0; j < s.keys; ++j) {
      const float value = float(x[row * s.keys + j]);
      const int32_t id = ids[row % QUERIES * s.keys + j];
      wanted[id] += value;
      sizes[id] += std::fabs(value);
    }
    for (int64_t n = 0; n < s.buckets; ++n) {
      const float right = float(T(wanted[n])), found = float(out[row * s.buckets + n]);
      const bool close = !in_order && std::fabs(found - right) <= tolerance * sizes[n];
      if (found != right && !(found != found && right != right) && !close) {
        fail(name, "sum", s, int(n));
      }
    }
  }
}

using InRange = bool (*)(const int32_t* ids, int64_t keys, int64_t buckets);

void check_in_range(const char* name, InRange in_range) {
  const int32_t lowest = std::numeric_limits<int32_t>::min();
  for (int64_t keys = 0; keys < 40; ++keys) {
    Array<int32_t> ids(keys);
    for (int64_t k = 0; k < keys; ++k) ids[k] = int32_t(k % 5);
    if (!in_range(ids.get(), keys, 5)) fail(name, "in_range of good ids", {1, keys, 5}, -1);
    for (int64_t k = 0; k < keys; ++k) {
      for (const int32_t wrong : {-1, 5, lowest, -(lowest + 1)}) {
        const int32_t right = ids[k];
        ids[k] = wrong;
        if (in_range(ids.get(), keys, 5)) fail(name, "in_range", {1, keys, 5}, wrong);
        ids[k] = right;
      }
    }
  }
}

template <typename T>
void check(const char* name, LookupKernel<T> lookup, BucketSumKernel<T> sum, int64_t most_buckets,
           bool in_order) {
  int variant = 0;
  for (const int64_t rows : {1, 2, 3, 4, 5, 8, 9, 11, 17}) {
    for (const int64_t keys : {1, 3, 4, 7, 8, 9, 16, 17, 39, 260, 1023, 1028, 1045, 2050}) {
      for (const int64_t buckets : {1, 7, 8, 9, 16, 81, 300}) {
        const Sizes sizes{rows, keys, buckets};
        ++variant;
        if (buckets <= most_buckets) check_lookup<T>(name, lookup, sizes, variant);
        if (keys < 1000 || variant % 5 == 0) check_sum<T>(name, sum, sizes, in_order);
      }
    }
  }
}

}  // namespace

#define CHECK(kernels, most_buckets, in_order)                                                 \
  check_in_range(#kernels, kernels::in_range);                                                 \
  check<float>(#kernels, kernels::lookup, kernels::sum, most_buckets, in_order);               \
  check<c10::Half>(#kernels, kernels::lookup, kernels::sum, most_buckets, in_order);           \
  check<c10::BFloat16>(#kernels, kernels::lookup, kernels::sum, most_buckets, in_order);       \
  std::printf(" " #kernels)

int main() {
  std::printf("ok:");
  CHECK(portable, 300, true);
  if (avx2::supported()) {
    CHECK(avx2, 300, true);
  }
  if (avx512::supported()) {
    CHECK(avx512, avx512::MAX_BUCKETS, false);
  }
  std::printf("\n");
}
