// Enough of CUDA to run the kernels on the host: a thread for each CUDA thread, real barriers.
#pragma once

#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

// ---- the part of CUDA that the kernels use ----

#define __global__
#define __host__
#define __device__
#define __shared__
#define __launch_bounds__(...)

std::atomic<bool> asserted;
#undef CUDA_KERNEL_ASSERT
#define CUDA_KERNEL_ASSERT(condition) \
  if (!(condition)) asserted = true

struct Dimensions {
  unsigned x = 1, y = 1;
};
thread_local Dimensions threadIdx, blockIdx;
Dimensions blockDim, gridDim;
std::unique_ptr<std::barrier<>> block_barrier;
std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;

void __syncthreads() { block_barrier->arrive_and_wait(); }
void __syncwarp() { warp_barriers[threadIdx.x / 32]->arrive_and_wait(); }

#include "../../rpe_ops/csrc/cuda/bucket_sum.cuh"
#include "../../rpe_ops/csrc/cuda/lookup.cuh"

using namespace rpe_ops::cuda;

namespace rpe_ops::cuda {
Chunk shared_memory[SHARED_BYTES / VECTOR_BYTES];
}

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "failed: %s\n", what);
  std::abort();
}

void expect(bool condition, const char* what) {
  if (!condition) fail(what);
}

// kernel<<<plan.grid, plan.threads, plan.shared_bytes>>>(), one block after the other; those with
// x below `first_x` are left out.
template <typename Plan, typename Kernel>
void launch(const Plan& plan, Kernel kernel, unsigned first_x = 0) {
  expect(plan.threads % WARP == 0 && plan.threads <= 1024, "threads of a block");
  expect(plan.shared_bytes <= SHARED_BYTES, "shared memory");
  expect(plan.grid.x > 0 && plan.grid.y > 0, "grid");
  gridDim = {unsigned(plan.grid.x), unsigned(plan.grid.y)};
  blockDim = {unsigned(plan.threads), 1};
  block_barrier = std::make_unique<std::barrier<>>(plan.threads);
  warp_barriers.clear();
  for (int w = 0; w < plan.threads / WARP; ++w) {
    warp_barriers.push_back(std::make_unique<std::barrier<>>(WARP));
  }
  std::memset(shared_memory, 0xff, sizeof(shared_memory));  // NaN: nobody zeroes it for us
#if defined(__SANITIZE_ADDRESS__)
  char* begin = reinterpret_cast<char*>(shared_memory);
  ASAN_POISON_MEMORY_REGION(begin + plan.shared_bytes, SHARED_BYTES - plan.shared_bytes);
#endif
  std::vector<std::thread> pool;
  for (unsigned t = 0; t < blockDim.x; ++t) {
    pool.emplace_back([&, t] {
      threadIdx = {t, 0};
      for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
        for (blockIdx.x = first_x; blockIdx.x < gridDim.x; ++blockIdx.x) {
          kernel();
          block_barrier->arrive_and_wait();
        }
      }
    });
  }
  for (auto& thread : pool) thread.join();
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(shared_memory, SHARED_BYTES);
#endif
}

template <typename T>
void launch_lookup(const LookupPlan& plan, const Rows<const T>& table, const int32_t* index,
                   T* out, const Sizes& sizes, unsigned first_x = 0) {
  const auto kernel =
      plan.staged ? lookup_kernel<T, StagedTables<T>> : lookup_kernel<T, TablesInPlace<T>>;
  launch(plan, [&] { kernel(table, index, out, sizes, plan); }, first_x);
}

template <typename T>
void launch_sum(const SumPlan& plan, const Rows<const T>& x, const int32_t* index, T* out,
                const Sizes& sizes, unsigned first_x = 0) {
  launch(plan, [&] { bucket_sum_kernel<T>(x, index, out, sizes, plan); }, first_x);
}

// ---- tensors ----

// Exactly as large as needed, and begun `offset` elements after an aligned address.
template <typename T>
struct Memory {
  T* begin;
  T* data;

  explicit Memory(int64_t count, int64_t offset = 0)
      : begin(static_cast<T*>(std::aligned_alloc(64, ((count + offset) * sizeof(T) + 63) / 64 * 64))),
        data(begin + offset) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_POISON_MEMORY_REGION(begin, offset * sizeof(T));
    const int64_t used = (count + offset) * sizeof(T);
    ASAN_POISON_MEMORY_REGION(reinterpret_cast<char*>(begin) + used, (used + 63) / 64 * 64 - used);
#endif
  }
  ~Memory() { std::free(begin); }
};
