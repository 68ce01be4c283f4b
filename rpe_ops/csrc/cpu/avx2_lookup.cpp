// rpe_index with AVX2, which cannot pick from a table of many registers. All rows of a query share
// its ids, so the tables of 4 rows of 4 bytes, or 8 of 2, are interleaved: what they have in a
// bucket is one load by its id, and those of 8 (16) keys are transposed into as many elements of
// each row.

#include "avx2.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cstring>

#include "avx2_intrinsics.h"
#include "portable.h"

#if defined(RPE_OPS_AVX2)

#include <cpuid.h>

namespace rpe_ops::avx2 {

bool supported() {
  // Compilers differ in whether they know the word f16c here.
  unsigned eax, ebx, ecx, edx;
  return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
         (ecx & bit_F16C) != 0;
}

AVX2 bool in_range(const int32_t* ids, int64_t keys, int64_t buckets) {
  __m256i largest = _mm256_setzero_si256();  // as unsigned numbers, where -1 is a large one
  int64_t j = 0;
  for (; j + 8 <= keys; j += 8) {
    const auto* place = reinterpret_cast<const __m256i*>(ids + j);
    largest = _mm256_max_epu32(largest, _mm256_loadu_si256(place));
  }
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  for (; j < keys; ++j) {
    if (uint32_t(ids[j]) > lanes[0]) lanes[0] = uint32_t(ids[j]);
  }
  bool good = true;
  for (const uint32_t lane : lanes) good &= int64_t(lane) < buckets || keys == 0;
  return good;
}

namespace {

constexpr int LINE = 64;         // bytes of a cache line
constexpr int64_t CHUNK = 1024;  // keys that are collected to be written past the caches

// 16 bytes are what ROWS rows have in a bucket; a step does KEYS keys of them, LOADS times two.
template <int BYTES>
struct Step {
  static constexpr int ROWS = 16 / BYTES;
  static constexpr int KEYS = 32 / BYTES;
  static constexpr int LOADS = KEYS / 2;
};

// v[i] lane k -> v[k] lane i, in either half of the registers.
template <int BYTES>
AVX2_INLINE void transpose(__m256i* v) {
  if constexpr (BYTES == 4) {
    transpose_4x4(v);
  } else {
    transpose_8x8(v);
  }
}

// out[n * ROWS + k] = rows[k][n * stride]
template <typename T>
AVX2 void interleave(const T* const* rows, int64_t stride, int64_t buckets, T* out) {
  using S = Step<sizeof(T)>;
  if (stride != 1 || buckets < S::KEYS) {
    for (int64_t n = 0; n < buckets; ++n) {
      for (int k = 0; k < S::ROWS; ++k) out[n * S::ROWS + k] = rows[k][n * stride];
    }
    return;
  }
  for (int64_t n = 0; n < buckets; n += S::KEYS) {
    if (n > buckets - S::KEYS) n = buckets - S::KEYS;  // the last step does some once more
    __m256i v[S::ROWS];
#pragma GCC unroll 8
    for (int k = 0; k < S::ROWS; ++k) {
      v[k] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[k] + n));
    }
    transpose<sizeof(T)>(v);
#pragma GCC unroll 8
    for (int k = 0; k < S::LOADS; ++k) {
      auto* low = reinterpret_cast<__m128i*>(out + (n + k) * S::ROWS);
      _mm_storeu_si128(low, _mm256_castsi256_si128(v[k]));
      _mm_storeu_si128(low + S::LOADS, _mm256_extracti128_si256(v[k], 1));
    }
  }
}

// out[k][j] = tables[ids[j] * ROWS + k]; there are at least KEYS keys.
template <typename T>
AVX2_INLINE void pick(const T* tables, const int32_t* ids, int64_t keys, T* const* out) {
  using S = Step<sizeof(T)>;
  for (int64_t j = 0; j < keys; j += S::KEYS) {
    if (j > keys - S::KEYS) j = keys - S::KEYS;  // the last step does some once more
    __m256i v[S::LOADS];
#pragma GCC unroll 8
    for (int k = 0; k < S::LOADS; ++k) {
      v[k] = load_halves(tables + int64_t(ids[j + k]) * S::ROWS,
                         tables + int64_t(ids[j + k + S::LOADS]) * S::ROWS);
    }
    transpose<sizeof(T)>(v);
#pragma GCC unroll 8
    for (int k = 0; k < S::ROWS; ++k) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out[k] + j), v[k]);
    }
  }
}

template <typename T>
AVX2 void pick_rows(const T* tables, const int32_t* ids, int64_t keys, T* const* out) {
  pick(tables, ids, keys, out);
}

// A row of the output on its way past the caches, in whole cache lines.
struct Stream {
  char* line;      // where the next line of the output begins
  int64_t before;  // bytes of that line that belong to the row before
  int64_t filled;  // bytes of that line that are in the buffer, or belong to the row before
};

// Of each row's buffer: a chunk, and what was left of the one before.
template <typename T>
constexpr int64_t BUFFER_BYTES = LINE + CHUNK * sizeof(T);

// Write the whole lines of the buffer, and move what is left to its begin.
AVX2 void write_lines(Stream& stream, char* buffer) {
  char* line = stream.line;
  const int64_t filled = stream.filled;
  int64_t at = 0;
  if (stream.before != 0 && filled >= LINE) {
    std::memcpy(line + stream.before, buffer + stream.before, LINE - stream.before);
    stream.before = 0;
    at = LINE;
  }
  for (; at + LINE <= filled; at += LINE) {
    const auto* from = reinterpret_cast<const __m256i*>(buffer + at);
    auto* to = reinterpret_cast<__m256i*>(line + at);
    _mm256_stream_si256(to, _mm256_load_si256(from));
    _mm256_stream_si256(to + 1, _mm256_load_si256(from + 1));
  }
  if (at > 0 && at < filled) std::memcpy(buffer, buffer + at, LINE);
  stream.line = line + at;
  stream.filled = filled - at;
}

// As pick_rows(), past the caches, for the first `rows` rows. The buffer holds BUFFER_BYTES for
// each, and begins on a line.
template <typename T>
AVX2 void stream_rows(const T* tables, const int32_t* ids, int64_t keys, T* const* out, int rows,
                      char* buffer) {
  constexpr int ROWS = Step<sizeof(T)>::ROWS;
  constexpr int64_t KEYS = Step<sizeof(T)>::KEYS, BYTES = BUFFER_BYTES<T>;
  Stream streams[ROWS];
  for (int k = 0; k < ROWS; ++k) {
    char* begin = reinterpret_cast<char*>(out[k]);
    const int64_t before = reinterpret_cast<uintptr_t>(begin) % LINE;
    streams[k] = {begin - before, before, before};
  }
  int64_t count;
  for (int64_t begin = 0; begin < keys; begin += count) {
    const int64_t left = keys - begin;
    // pick() needs as many as KEYS the next time, too.
    count = left <= CHUNK ? left : left < CHUNK + KEYS ? CHUNK - KEYS : CHUNK;
    T* to[ROWS];
    for (int k = 0; k < ROWS; ++k) {
      to[k] = reinterpret_cast<T*>(buffer + k * BYTES + streams[k].filled);
    }
    pick(tables, ids + begin, count, to);
    for (int k = 0; k < rows; ++k) {
      streams[k].filled += count * sizeof(T);
      write_lines(streams[k], buffer + k * BYTES);
    }
  }
  for (int k = 0; k < rows; ++k) {
    const Stream& s = streams[k];
    std::memcpy(s.line + s.before, buffer + k * BYTES + s.before, s.filled - s.before);
  }
}

}  // namespace

template <typename T>
void lookup(const Lookup<T>& job, int64_t query, int64_t first, int64_t last, Scratch& scratch) {
  using S = Step<sizeof(T)>;
  constexpr int ROWS = S::ROWS;
  constexpr int FEW_ROWS = ROWS / 4;  // take no longer one by one than ROWS do here
  T* tables = scratch.get<T>((job.buckets + CHUNK) * ROWS + (ROWS + 1) * LINE / sizeof(T));
  const int64_t table_bytes = (job.buckets * ROWS * sizeof(T) + LINE - 1) / LINE * LINE;
  char* buffer = reinterpret_cast<char*>(tables) + table_bytes;
  const int32_t* ids = job.index + query * job.keys;
  for (; first < last; first += ROWS) {
    if (job.keys < S::KEYS || last - first <= FEW_ROWS) {
      return portable::lookup<T>(job, query, first, last, scratch);
    }
    const int rows = int(std::min<int64_t>(last - first, ROWS));
    const T* table[ROWS];
    T* out[ROWS];
    for (int k = 0; k < ROWS; ++k) {
      // Where rows are left over, the last one is done again.
      const int64_t r = first + std::min(k, rows - 1);
      table[k] = job.table.at(r, query);
      prefetch(job.table, r, query, job.buckets);
      out[k] = job.out + (r * job.queries + query) * job.keys;
    }
    interleave(table, job.table.stride, job.buckets, tables);
    if (job.bypass_cache) {
      stream_rows(tables, ids, job.keys, out, rows, buffer);
    } else {
      pick_rows(tables, ids, job.keys, out);
    }
  }
  if (job.bypass_cache) _mm_sfence();  // such writes are otherwise not in order with later ones
}

}  // namespace rpe_ops::avx2

#else  // another processor or compiler

namespace rpe_ops::avx2 {

bool supported() { return false; }
bool in_range(const int32_t*, int64_t, int64_t) { return false; }
template <typename T>
void lookup(const Lookup<T>&, int64_t, int64_t, int64_t, Scratch&) {}

}  // namespace rpe_ops::avx2

#endif

namespace rpe_ops::avx2 {

template void lookup(const Lookup<float>&, int64_t, int64_t, int64_t, Scratch&);
template void lookup(const Lookup<c10::Half>&, int64_t, int64_t, int64_t, Scratch&);
template void lookup(const Lookup<c10::BFloat16>&, int64_t, int64_t, int64_t, Scratch&);

}  // namespace rpe_ops::avx2
