// Runs the CUDA kernels on the CPU, a thread for each CUDA thread, and compares with loops.
//
// What a sanitizer sees here - accesses outside of a tensor or of the shared memory that was
// asked for, misaligned vectors, races between the threads of a warp - would be an error on a
// GPU, too. Compile with -fsanitize=address,undefined or -fsanitize=thread and run; prints "ok".

#include <barrier>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// ---- the part of CUDA that the kernels use ----

#define __global__
#define __host__
#define __device__
#define __shared__
#define __launch_bounds__(...)

void fail(const char* what) {
  std::fprintf(stderr, "failed: %s\n", what);
  std::abort();
}
#undef CUDA_KERNEL_ASSERT
#define CUDA_KERNEL_ASSERT(condition) \
  if (!(condition)) fail(#condition)

struct Dimensions {
  unsigned x = 1, y = 1;
};
thread_local Dimensions threadIdx, blockIdx;
Dimensions blockDim, gridDim;
std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;

void __syncwarp() { warp_barriers[threadIdx.x / 32]->arrive_and_wait(); }

namespace rpe_ops {
constexpr int64_t SHARED_BYTES = 48 * 1024;
double shared_memory[SHARED_BYTES / sizeof(double)];
}  // namespace rpe_ops

#include "../../rpe_ops/csrc/cuda/kernels.cuh"

using namespace rpe_ops;

// kernel<<<grid, threads, shared_bytes>>>(arguments...), one block after the other.
template <typename Kernel>
void launch(Dimensions grid, unsigned threads, int64_t shared_bytes, Kernel kernel) {
  gridDim = grid;
  blockDim = {threads, 1};
  warp_barriers.clear();
  for (unsigned w = 0; w < (threads + 31) / 32; ++w) {
    warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
  }
  std::memset(shared_memory, 0xff, sizeof(shared_memory));  // NaN: nobody zeroes it for us
#if defined(__SANITIZE_ADDRESS__)
  char* begin = reinterpret_cast<char*>(shared_memory);
  ASAN_POISON_MEMORY_REGION(begin + shared_bytes, SHARED_BYTES - shared_bytes);
#endif
  std::barrier<> block(threads);
  std::vector<std::thread> pool;
  for (unsigned t = 0; t < threads; ++t) {
    pool.emplace_back([&, t] {
      threadIdx = {t, 0};
      for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
        for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
          kernel();
          block.arrive_and_wait();
        }
      }
    });
  }
  for (auto& thread : pool) thread.join();
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(shared_memory, SHARED_BYTES);
#endif
}

// ---- comparison ----

std::mt19937 random_numbers(0);

template <typename T, int WIDTH>
void check(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t buckets,
           int64_t pass, double tolerance) {
  const int64_t rows = batch * heads;
  // Exactly as large as needed, and aligned as PyTorch's are.
  auto allocate = [](auto example, int64_t count) {
    using E = decltype(example);
    auto* memory = static_cast<E*>(std::aligned_alloc(64, (count * sizeof(E) + 63) / 64 * 64));
    return std::unique_ptr<E, decltype(&std::free)>(memory, &std::free);
  };
  auto index = allocate(int32_t(), queries * keys);
  for (int64_t k = 0; k < queries * keys; ++k) {
    index.get()[k] = k % 3 ? index.get()[k - 1] : int32_t(random_numbers() % buckets);
  }
  auto number = [] { return T(float(random_numbers() % 2001) / 1000 - 1); };
  auto table = allocate(T(), rows * queries * buckets);
  for (int64_t k = 0; k < rows * queries * buckets; ++k) table.get()[k] = number();
  auto x = allocate(T(), rows * queries * keys);
  for (int64_t k = 0; k < rows * queries * keys; ++k) x.get()[k] = number();

  auto looked_up = allocate(T(), rows * queries * keys);
  const Rows<const T> table_rows{table.get(),       heads,   heads * queries * buckets,
                                 queries * buckets, buckets, 1};
  launch({2, 2}, LOOKUP_THREADS, 0, [&] {
    lookup_kernel<T, WIDTH>(table_rows, index.get(), looked_up.get(), rows, queries, keys,
                            buckets);
  });
  auto sums = allocate(T(), rows * queries * buckets);
  const Rows<const T> x_rows{x.get(), heads, heads * queries * keys, queries * keys, keys, 1};
  const int64_t warps = 2;
  launch({3, 1}, warps * WARP, warps * pass * WARP * sizeof(Accumulate<T>), [&] {
    bucket_sum_kernel<T, WIDTH>(x_rows, index.get(), sums.get(), rows, queries, keys, buckets,
                                pass);
  });

  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t row = r * queries + i;
      std::vector<double> wanted(buckets, 0);
      for (int64_t j = 0; j < keys; ++j) {
        const int32_t n = index.get()[i * keys + j];
        if (!(looked_up.get()[row * keys + j] == table.get()[row * buckets + n])) fail("lookup");
        wanted[n] += double(x.get()[row * keys + j]);
      }
      for (int64_t n = 0; n < buckets; ++n) {
        const double difference = std::abs(double(sums.get()[row * buckets + n]) - wanted[n]);
        if (!(difference <= tolerance * (1 + std::abs(wanted[n])))) fail("sum");
      }
    }
  }
}

int main() {
  // Rows that the threads do not divide, more keys than a warp has under way, several passes.
  check<float, 4>(2, 5, 3, 140, 81, 81, 1e-5);
  check<float, 2>(1, 3, 5, 770, 49, 20, 1e-5);
  check<float, 1>(1, 9, 4, 77, 170, 170, 1e-5);
  check<double, 2>(1, 3, 4, 66, 9, 9, 1e-12);
  check<double, 1>(1, 2, 3, 1, 1, 1, 1e-12);
  check<c10::Half, 8>(2, 2, 4, 136, 81, 50, 2e-3);
  check<c10::Half, 1>(1, 3, 2, 35, 7, 7, 2e-3);
  check<c10::BFloat16, 8>(1, 8, 2, 304, 81, 81, 1e-2);
  check<c10::BFloat16, 2>(3, 3, 3, 42, 169, 64, 1e-2);
  std::puts("ok");
}
