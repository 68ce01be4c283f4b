// Runs the CUDA kernels on the CPU, a thread for each CUDA thread, as they are launched on a GPU,
// and compares with loops.
//
// What a sanitizer sees here - accesses outside of a tensor or of the shared memory that was
// asked for, misaligned vectors, races between the threads of a block - would be an error on a
// GPU, too. Compile with -fsanitize=address,undefined or -fsanitize=thread and run; prints "ok".

#include <climits>
#include <cmath>
#include <random>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "cuda_emulator.h"

std::mt19937 random_numbers(0);

template <typename T>
void randomize(T* data, int64_t count) {
  for (int64_t k = 0; k < count; ++k) {
    if constexpr (std::is_integral_v<T>) {
      data[k] = static_cast<T>(random_numbers());
    } else {
      data[k] = T(float(random_numbers() % 2001) / 1000 - 1);
    }
  }
}

// Ids with neighbours in the same bucket, as in an image.
void random_ids(int32_t* ids, int64_t count, int64_t buckets) {
  for (int64_t k = 0; k < count; ++k) {
    ids[k] = k % 3 ? ids[k - 1] : int32_t(random_numbers() % buckets);
  }
}

template <typename T>
const T& element(const Rows<const T>& rows, int64_t r, int64_t i, int64_t k) {
  return rows.data[r / rows.heads * rows.batch_stride + r % rows.heads * rows.head_stride +
                   i * rows.query_stride + k * rows.stride];
}

template <typename T>
void check_sums(const Rows<const T>& x, const int32_t* ids, const T* sums, int64_t r, int64_t i,
                const Sizes& sizes, double tolerance) {
  std::vector<double> wanted(sizes.buckets, 0);
  for (int64_t j = 0; j < sizes.keys; ++j) wanted[ids[j]] += double(element(x, r, i, j));
  for (int64_t n = 0; n < sizes.buckets; ++n) {
    const double difference = std::abs(double(sums[n]) - wanted[n]);
    expect(difference <= tolerance * (1 + std::abs(wanted[n])), "sum");
  }
}

// ---- comparisons with loops ----

// How the elements of (B, H, Lq, N) lie in memory.
enum Layout { CONTIGUOUS, ONE_ROW_FOR_ALL_QUERIES, QUERIES_FIRST, EVERY_THIRD, PADDED };

template <typename T>
Rows<const T> lay_out(const T* data, Layout layout, int64_t heads, int64_t queries, int64_t n) {
  switch (layout) {
    case ONE_ROW_FOR_ALL_QUERIES: return {data, heads, heads * n, n, 0, 1};
    case QUERIES_FIRST: return {data, heads, queries * heads * n, n, heads * n, 1};
    case EVERY_THIRD: return {data, heads, 3 * heads * queries * n, 3 * queries * n, 3 * n, 3};
    case PADDED: return {data, heads, heads * queries * (n + 3), queries * (n + 3), n + 3, 1};
    default: return {data, heads, heads * queries * n, queries * n, n, 1};
  }
}

struct Case {
  int64_t batch, heads, queries, keys, buckets;
  Layout layout = CONTIGUOUS;
  int64_t offset = 0;        // of values, from an aligned address
  int64_t index_offset = 0;  // of ids
};

template <typename Plan>
std::vector<Plan> with_small_grid(Plan plan) {
  Plan small = plan;
  small.grid = {std::min<int64_t>(plan.grid.x, 2), 1};
  return {plan, small};
}

template <typename T>
void check_lookup(const Case& c) {
  const Sizes sizes{c.batch * c.heads, c.queries, c.keys, c.buckets};
  Memory<int32_t> index(c.queries * c.keys, c.index_offset);
  random_ids(index.data, c.queries * c.keys, c.buckets);
  const int64_t room = sizes.rows * c.queries * (3 * c.buckets + 3);
  Memory<T> table(room, c.offset), out(sizes.rows * c.queries * c.keys, c.offset);
  randomize(table.data, room);
  const auto rows = lay_out<T>(table.data, c.layout, c.heads, c.queries, c.buckets);
  for (const auto& plan : with_small_grid(plan_lookup(sizes, sizeof(T)))) {
    randomize(out.data, sizes.rows * c.queries * c.keys);
    launch_lookup<T>(plan, rows, index.data, out.data, sizes);
    for (int64_t k = 0; k < sizes.rows * c.queries * c.keys; ++k) {
      const int64_t i = k / c.keys % c.queries, r = k / c.keys / c.queries;
      const int32_t n = index.data[i * c.keys + k % c.keys];
      expect(out.data[k] == element(rows, r, i, n), "lookup");
    }
  }
}

template <typename T>
void check_sum(const Case& c, double tolerance) {
  const Sizes sizes{c.batch * c.heads, c.queries, c.keys, c.buckets};
  Memory<int32_t> index(c.queries * c.keys, c.index_offset);
  random_ids(index.data, c.queries * c.keys, c.buckets);
  const int64_t room = sizes.rows * c.queries * (c.keys + 3);
  Memory<T> x(room, c.offset), out(sizes.rows * c.queries * c.buckets);
  randomize(x.data, room);
  const auto rows = lay_out<T>(x.data, c.layout, c.heads, c.queries, c.keys);
  SumPlan two_passes = plan_sum(sizes, sizeof(Accumulate<T>));
  two_passes.pass = (two_passes.pass + 1) / 2;
  auto plans = with_small_grid(plan_sum(sizes, sizeof(Accumulate<T>)));
  plans.push_back(two_passes);
  for (const auto& plan : plans) {
    randomize(out.data, sizes.rows * c.queries * c.buckets);
    launch_sum<T>(plan, rows, index.data, out.data, sizes);
    for (int64_t row = 0; row < sizes.rows * c.queries; ++row) {
      const int64_t r = row / c.queries, i = row % c.queries;
      check_sums(rows, index.data + i * c.keys, out.data + row * c.buckets, r, i, sizes, tolerance);
    }
  }
}

void check(const Case& c) {
  check_lookup<uint16_t>(c);
  check_lookup<uint32_t>(c);
  check_lookup<uint64_t>(c);
  if (c.layout == EVERY_THIRD) return;  // the sum is given rows without gaps
  check_sum<float>(c, 1e-5);
  check_sum<double>(c, 1e-12);
  check_sum<c10::Half>(c, 2e-3);
  check_sum<c10::BFloat16>(c, 1e-2);
}

// ---- ids out of range: an assertion, and no access outside of memory ----

template <typename T>
void check_wrong_id(int32_t wrong, int64_t key, int64_t buckets) {
  const Sizes sizes{3, 2, 21, buckets};
  Memory<int32_t> index(sizes.queries * sizes.keys);
  random_ids(index.data, sizes.queries * sizes.keys, buckets);
  Memory<T> table(sizes.rows * sizes.queries * buckets);
  Memory<T> x(sizes.rows * sizes.queries * sizes.keys);
  randomize(table.data, sizes.rows * sizes.queries * buckets);
  randomize(x.data, sizes.rows * sizes.queries * sizes.keys);
  const auto tables = lay_out<T>(table.data, CONTIGUOUS, 3, sizes.queries, buckets);
  const auto rows = lay_out<T>(x.data, CONTIGUOUS, 3, sizes.queries, sizes.keys);
  auto both = [&](bool wanted) {
    asserted = false;
    launch_lookup<T>(plan_lookup(sizes, sizeof(T)), tables, index.data, x.data, sizes);
    expect(asserted == wanted, "assertion of the lookup");
    asserted = false;
    launch_sum<T>(plan_sum(sizes, sizeof(T)), rows, index.data, table.data, sizes);
    expect(asserted == wanted, "assertion of the sum");
  };
  both(false);
  index.data[sizes.keys + key] = wrong;
  both(true);
}

#include "cuda_launches.h"

int main() {
  // Rows of any alignment and of fewer keys than a vector has; more rows than a group, more keys
  // than a warp has under way, or than the threads of a block take at once; one row, one key.
  check({2, 5, 3, 140, 81});
  check({1, 3, 5, 35, 49});
  check({2, 9, 3, 21, 7});
  check({1, 1, 3, 66, 9});
  check({1, 2, 3, 1, 1});
  check({1, 2, 2, 5, 3});
  check({1, 9, 1, 4201, 170});
  check({2, 8, 1, 1050, 81});
  check({1, 1, 2, 40, 3100});  // too many for shared memory
  check({1, 2, 2, 33, 400});
  // Values and ids that begin anywhere.
  for (int offset : {1, 2, 3, 5}) check({1, 3, 2, 42, 9, CONTIGUOUS, offset, 4 - offset % 4});
  for (auto layout : {ONE_ROW_FOR_ALL_QUERIES, QUERIES_FIRST, EVERY_THIRD, PADDED}) {
    check({2, 3, 3, 46, 9, layout});
    check({3, 1, 4, 19, 1700, layout});
  }
  for (int32_t wrong : {-1, INT_MIN, INT_MAX, 9}) check_wrong_id<float>(wrong, 3, 9);
  for (int64_t key : {0, 3, 4, 5, 6, 20}) check_wrong_id<float>(9, key, 9);
  check_wrong_id<float>(1700, 3, 1700);
  check_wrong_id<float>(-1, 20, 1700);
  check_plans();
  check_large();
  std::puts("ok");
}
