// What the kernels of the two operators work on, one query at a time.
//
// A "row" is the data of one query for one (b, h); r = b * H + h counts (b, h). All rows of a
// query share its row of the index, so a kernel does one query for many r: whatever depends on
// the index alone is then done once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace rpe_ops {

// The input of either operator: (B, H, Lq, *) with any strides, counted in elements.
template <typename T>
struct Rows {
  const T* data;
  int64_t heads;  // H
  int64_t batch_stride, head_stride, query_stride, stride;

  const T* at(int64_t r, int64_t query) const {
    return data + (r / heads) * batch_stride + (r % heads) * head_stride + query * query_stride;
  }
};

// rpe_index: out[r, i, j] = table[r, i, index[i, j]]
template <typename T>
struct Lookup {
  Rows<T> table;         // (B, H, Lq, N)
  const int32_t* index;  // (Lq, Lk)
  T* out;                // (B, H, Lq, Lk)
  int64_t queries, keys, buckets;
  bool bypass_cache;     // write `out` past the caches, because it is larger than they are
};

// rpe_index_sum: out[r, i, n] = sum of x[r, i, j] over the j with index[i, j] == n
template <typename T>
struct BucketSum {
  Rows<T> x;             // (B, H, Lq, Lk), the last stride is 1
  const int32_t* index;  // (Lq, Lk)
  T* out;                // (B, H, Lq, N)
  int64_t queries, keys, buckets;
};

// Memory that a thread's kernel calls use again.
struct Scratch {
  std::vector<char> bytes;

  template <typename T>
  T* get(int64_t count) {
    // One cache line more than asked for, to begin on a line.
    const std::size_t wanted = count * sizeof(T) + 64;
    if (bytes.size() < wanted) bytes.resize(wanted);
    const auto address = reinterpret_cast<uintptr_t>(bytes.data());
    return reinterpret_cast<T*>((address + 63) / 64 * 64);
  }
};

// Ask for the memory that the next queries' rows of a small table lie in: those of many (b, h)
// are more streams than a processor follows on its own. Past the end of memory it does nothing.
template <typename T>
inline void prefetch(const Rows<T>& rows, int64_t r, int64_t query, int64_t count) {
#if defined(__GNUC__)
  const auto* ahead = reinterpret_cast<const char*>(rows.at(r, query + 2));
  for (int64_t k = 0; k < count * int64_t(sizeof(T)); k += 64) __builtin_prefetch(ahead + k);
#endif
}

// Kernels for the rows [first, last) of one query. Ids have been checked to be in [0, buckets).
template <typename T>
using LookupKernel = void (*)(const Lookup<T>&, int64_t query, int64_t first, int64_t last,
                              Scratch&);
template <typename T>
using BucketSumKernel = void (*)(const BucketSum<T>&, int64_t query, int64_t first, int64_t last,
                                 Scratch&);

}  // namespace rpe_ops
