// A part of cuda_on_host.cpp: how the kernels are launched, and offsets that 32 bits do not count.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

// Worked out by hand.
void check_plans() {
  const LookupPlan lookup = plan_lookup({16, 1050, 1050, 81}, 2);
  expect(lookup.classes == 2 && lookup.groups == 2, "1050 * 1050 is 4 times an odd number");
  expect(lookup.staged && lookup.shared_bytes == 81 * 8 * 2, "8 tables of bf16");
  expect(lookup.grid.x == 1050 && lookup.grid.y == 2, "a block for each query and group");
  expect(lookup.threads == 160, "132 vectors in one round");
  expect(plan_lookup({16, 1050, 1050, 81}, 4).threads == 160, "263 vectors in two rounds");
  expect(plan_lookup({16, 4200, 4200, 81}, 4).classes == 1, "all rows aligned alike");
  expect(plan_lookup({16, 35, 35, 81}, 2).groups == 8, "8 alignments of two rows each");
  expect(plan_lookup({3, 35, 35, 81}, 2).groups == 3, "no group without a row");
  expect(!plan_lookup({16, 9, 9, 1537}, 4).staged, "1536 buckets of 8 rows fill 48 KB");
  const LookupPlan most = plan_lookup({int64_t(1) << 20, int64_t(1) << 31, 2, 9}, 8);
  expect(most.grid.x == MAX_GRID_X && most.grid.y == MAX_GRID_Y, "the largest grid");

  const SumPlan sum = plan_sum({16, 1050, 1050, 81}, 4);
  expect(sum.pass == 81 && sum.threads == 4 * 32, "4 warps have room");
  expect(sum.shared_bytes == 4 * 81 * 128 && sum.grid.x == 4200, "4 rows a block");
  expect(plan_sum({16, 10, 10, 170}, 4).threads == 2 * 32, "170 buckets are 21 KB a warp");
  expect(plan_sum({16, 10, 10, 1000}, 4).pass == 384, "what 48 KB hold of float32");
  expect(plan_sum({16, 10, 10, 1000}, 8).pass == 192, "what 48 KB hold of float64");
  expect(plan_sum({16, 10, 10, 1000}, 8).threads == 32, "one warp has all of it");
  expect(plan_sum({int64_t(1) << 16, int64_t(1) << 20, 2, 9}, 4).grid.x == MAX_GRID_X, "grid");
  expect(last_id(81) == 80 && last_id(int64_t(1) << 40) == INT_MAX, "last id");

  const int64_t large = (int64_t(1) << 40) + 12345;
  for (int64_t a : {int64_t(7), large}) {
    for (int64_t b : {int64_t(3), int64_t(1) << 33, large}) expect(divide(a, b) == a / b, "divide");
  }
}

// Address space without memory, but where it is asked for; touching the rest is a fault.
template <typename T>
struct Sparse {
  int64_t bytes;
  T* data;

  explicit Sparse(int64_t count) : bytes(count * sizeof(T)) {
    void* memory = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("no address space");
    data = static_cast<T*>(memory);
  }
  ~Sparse() { munmap(data, bytes); }

  T* use(int64_t first, int64_t count) {
    const uintptr_t page = sysconf(_SC_PAGESIZE);
    const uintptr_t begin = reinterpret_cast<uintptr_t>(data + first) / page * page;
    const uintptr_t end = reinterpret_cast<uintptr_t>(data + first + count);
    if (mprotect(reinterpret_cast<void*>(begin), end - begin, PROT_READ | PROT_WRITE) != 0) {
      fail("no memory");
    }
    return data + first;
  }
};

// Strides of the table above 2^31 elements, each axis in turn.
void check_large_strides() {
  const int64_t far = (int64_t(1) << 32) + 8;
  const Sizes sizes{2, 2, 12, 2};
  for (int axis = 0; axis < 4; ++axis) {
    const int64_t strides[] = {axis == 0 ? far : 64, axis == 1 ? far : 32, axis == 2 ? far : 16,
                               axis == 3 ? far : 1};
    const int64_t heads = axis == 0 ? 1 : 2;
    Sparse<uint16_t> table(far + 4096);
    randomize(table.use(0, 256), 256);
    randomize(table.use(far, 256), 256);
    const Rows<const uint16_t> rows{table.data, heads, strides[0], strides[1], strides[2],
                                    strides[3]};
    Memory<int32_t> index(sizes.queries * sizes.keys);
    random_ids(index.data, sizes.queries * sizes.keys, 2);
    Memory<uint16_t> out(sizes.rows * sizes.queries * sizes.keys);
    for (bool staged : {true, false}) {
      LookupPlan plan = plan_lookup(sizes, 2);
      plan.staged = staged;
      launch_lookup<uint16_t>(plan, rows, index.data, out.data, sizes);
      for (int64_t k = 0; k < sizes.rows * sizes.queries * sizes.keys; ++k) {
        const int64_t i = k / sizes.keys % 2, n = index.data[k % (2 * sizes.keys)];
        expect(out.data[k] == element(rows, k / sizes.keys / 2, i, n), "lookup far away");
      }
    }
  }
}

// The last queries of tensors with more than 2^31 elements.
void check_large_tensors() {
  const Sizes sizes{2, int64_t(1) << 16, (int64_t(1) << 15) + 6, 16400};
  const int64_t plane = sizes.queries * sizes.keys, last = sizes.queries - 1;
  const int64_t all = sizes.rows * sizes.queries;
  Sparse<int32_t> index(plane);
  int32_t* ids = index.use(plane - 2 * sizes.keys, 2 * sizes.keys);
  random_ids(ids, 2 * sizes.keys, sizes.buckets);

  Sparse<float> x(sizes.rows * plane), sums(all * sizes.buckets);
  const Rows<const float> rows{x.data, 2, 2 * plane, plane, sizes.keys, 1};
  for (int64_t r = 0; r < 2; ++r) {
    randomize(x.use((r + 1) * plane - 2 * sizes.keys, 2 * sizes.keys), 2 * sizes.keys);
    sums.use((r * sizes.queries + last - 1) * sizes.buckets, 2 * sizes.buckets);
  }
  const SumPlan plan = plan_sum(sizes, 4);
  const int64_t warps = plan.threads / WARP;
  launch_sum<float>(plan, rows, index.data, sums.data, sizes, (all - 2) / warps);
  Sparse<uint32_t> table(all * sizes.buckets), out(sizes.rows * plane);
  const Rows<const uint32_t> tables{table.data, 2, all * sizes.buckets,
                                    sizes.queries * sizes.buckets, sizes.buckets, 1};
  for (int64_t r = 0; r < 2; ++r) {
    const int64_t row = r * sizes.queries + last;
    randomize(table.use(row * sizes.buckets, sizes.buckets), sizes.buckets);
    out.use(row * sizes.keys, sizes.keys);
  }
  launch_lookup<uint32_t>(plan_lookup(sizes, 4), tables, index.data, out.data, sizes, last);
  for (int64_t r = 0; r < 2; ++r) {
    const int64_t row = r * sizes.queries + last;
    check_sums(rows, ids + sizes.keys, sums.data + row * sizes.buckets, r, last, sizes, 1e-5);
    for (int64_t j = 0; j < sizes.keys; ++j) {
      const uint32_t wanted = table.data[row * sizes.buckets + ids[sizes.keys + j]];
      expect(out.data[row * sizes.keys + j] == wanted, "lookup in a large tensor");
    }
  }
}

void check_large() {
  check_large_strides();
  check_large_tensors();
}
