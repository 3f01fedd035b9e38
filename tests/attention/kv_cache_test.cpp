#include "tessera/attention/kv_cache.h"

#include "tessera/autograd/ops/view.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

using Sizes = std::vector<int64_t>;

Tensor tokens(int64_t batch, int64_t n, int64_t width = 4, Device device = {}) {
  return kernels::to_device(randn({batch, 2, n, width}), device);
}

std::vector<int32_t> device_lengths(const KvCache& cache) {
  return cache.view().lengths.to_vector<int32_t>();
}

// What a cache of every kind must do, contiguous and in pages.
void check_appends(CacheOptions options, Device device) {
  RandomScope scope(1);
  KvCache cache(20, std::move(options));
  CHECK(cache.length() == 0);
  CHECK(cache.bytes() == 0);
  const Tensor a = tokens(2, 5, 4, device), b = tokens(2, 6, 4, device);
  const Tensor wide_a = tokens(2, 5, 6, device), wide_b = tokens(2, 6, 6, device);
  cache.append(a, wide_a);
  CHECK(same_bits(kernels::to_device(cache.key(), {}), kernels::to_device(a, {})));
  cache.append(b, wide_b);
  CHECK(same_bits(kernels::to_device(cache.key(), {}), kernels::to_device(concat({a, b}, 2), {})));
  CHECK(same_bits(kernels::to_device(cache.value(), {}),
                  kernels::to_device(concat({wide_a, wide_b}, 2), {})));
  CHECK(cache.bytes() == 2 * 11 * 2 * (4 + 6) * 4);
  CHECK(cache.reserved_bytes() >= cache.bytes());
  CHECK(device_lengths(cache) == std::vector<int32_t>{11, 11});
  cache.truncate(7);
  CHECK(cache.length() == 7);
  cache.append(views::slice(b, 2, 2, 6), views::slice(wide_b, 2, 2, 6));
  CHECK(same_bits(kernels::to_device(cache.key(), {}), kernels::to_device(concat({a, b}, 2), {})));
}

// Each sequence holds its own tokens, whatever the others have.
void check_ragged(CacheOptions options, Device device) {
  RandomScope scope(2);
  KvCache cache(20, std::move(options));
  const Tensor prompt = tokens(3, 6, 4, device), next = tokens(3, 1, 4, device);
  const Sizes counts{6, 2, 0};
  cache.append(prompt, prompt, counts);
  CHECK(cache.view().added.to_vector<int32_t>() == std::vector<int32_t>{6, 2, 0});
  cache.append(next, next);
  CHECK(!cache.view().added.defined());
  CHECK(cache.lengths() == Sizes{7, 3, 1});
  CHECK(device_lengths(cache) == std::vector<int32_t>{7, 3, 1});
  const Tensor held = kernels::to_device(cache.key(), {});
  const Tensor host = kernels::to_device(prompt, {}), last = kernels::to_device(next, {});
  for (int64_t b = 0; b < 3; ++b) {
    const int64_t n = counts[static_cast<size_t>(b)];
    const Tensor want =
        concat({views::slice(views::select(host, 0, b), 1, 0, n), views::select(last, 0, b)}, 1);
    CHECK(same_bits(views::slice(views::select(held, 0, b), 1, 0, n + 1), want));
  }
  cache.truncate(Sizes{4, 3, 0});
  CHECK(cache.lengths() == Sizes{4, 3, 0});
  CHECK(device_lengths(cache) == std::vector<int32_t>{4, 3, 0});
}

CacheOptions paged(int64_t pages, int64_t page_size) {
  return {.dtype = {}, .shared = false, .pool = std::make_shared<PagePool>(pages, page_size)};
}

}  // namespace

TEST_CASE("a cache returns what was appended, contiguous or in pages of any size") {
  check_appends({}, {});
  check_ragged({}, {});
  for (int64_t size : {1, 3, 8, 64}) {
    CAPTURE(size);
    check_appends(paged(60, size), {});
    check_ragged(paged(60, size), {});
  }
}

TEST_CASE("a cache stores in the dtype it was made for, and one tensor for keys and values") {
  RandomScope scope(3);
  const Tensor x = tokens(1, 4);
  KvCache halves(8, {.dtype = DType::bf16});
  halves.append(x, x);
  CHECK(same_bits(halves.key(), kernels::cast(x, DType::bf16)));
  CHECK(halves.bytes() == 4 * 2 * 8 * 2);
  KvCache shared(8, {.shared = true});
  shared.append(x, x);
  CHECK(same_bits(shared.value(), x));
  CHECK(shared.view().key.is_same(shared.view().value));
  CHECK(shared.bytes() == 4 * 2 * 4 * 4);
}

TEST_CASE("caches of several layers share the pages of a pool and give them back") {
  RandomScope scope(4);
  const auto pool = std::make_shared<PagePool>(9, 4);
  const Tensor x = tokens(2, 5);
  {
    KvCache first(16, {.pool = pool}), second(16, {.pool = pool});
    first.append(x, x);
    CHECK(pool->free_pages() == 5);
    second.append(x, x);
    CHECK(pool->free_pages() == 1);
    CHECK(same_bits(first.key(), x));
    first.truncate(4);
    CHECK(pool->free_pages() == 3);
    CHECK_THROWS_WITH_AS(second.append(tokens(2, 8), tokens(2, 8)), doctest::Contains("kv_cache"),
                         Error);
    CHECK(pool->free_pages() == 3);
    CHECK(second.length() == 5);
    second.reserve(3);
    CHECK(pool->free_pages() == 3);
    second.reserve(4);
    CHECK(pool->free_pages() == 1);
    std::vector<KvCache> moved;
    moved.push_back(std::move(first));
    CHECK(same_bits(moved[0].key(), views::slice(x, 2, 0, 4)));
  }
  CHECK(pool->free_pages() == 9);
}

TEST_CASE("a cache refuses what does not fit it") {
  RandomScope scope(5);
  KvCache cache(6);
  cache.append(tokens(2, 4), tokens(2, 4));
  CHECK_THROWS_WITH_AS(cache.append(tokens(2, 3), tokens(2, 3)),
                       doctest::Contains("exceed the capacity 6"), Error);
  CHECK_THROWS_WITH_AS(cache.append(tokens(3, 1), tokens(3, 1)), doctest::Contains("kv_cache"),
                       Error);
  CHECK_THROWS_WITH_AS(cache.append(tokens(2, 1, 5), tokens(2, 1, 5)),
                       doctest::Contains("kv_cache"), Error);
  CHECK_THROWS_WITH_AS(cache.append(tokens(2, 1), tokens(2, 1), Sizes{1}),
                       doctest::Contains("kv_cache"), Error);
  CHECK_THROWS_WITH_AS(cache.append(tokens(2, 1), tokens(2, 1), Sizes{1, 2}),
                       doctest::Contains("kv_cache"), Error);
  CHECK_THROWS_WITH_AS(cache.truncate(5), doctest::Contains("cannot keep 5 of 4"), Error);
  CHECK_THROWS_WITH_AS(KvCache(0), doctest::Contains("kv_cache"), Error);
  CHECK_THROWS_WITH_AS(PagePool(0, 4), doctest::Contains("page_pool"), Error);
  CHECK(cache.length() == 4);
}

TEST_SUITE("cuda") {
  TEST_CASE("a cache on CUDA returns what was appended, contiguous or in pages of any size") {
    if (!has_gpu()) return;
    check_appends({}, kGpu);
    check_ragged({}, kGpu);
    for (int64_t size : {1, 3, 8, 64}) {
      CAPTURE(size);
      check_appends(paged(60, size), kGpu);
      check_ragged(paged(60, size), kGpu);
    }
    RandomScope scope(6);
    for (DType dtype : {DType::f64, DType::bf16, DType::f16}) {
      for (int64_t width : {5, 64}) {  // rows in 16-byte pieces or not
        const Tensor x = tokens(2, 300, width, kGpu);
        KvCache cache(400, {.dtype = dtype, .pool = std::make_shared<PagePool>(60, 16)});
        const Tensor heads = views::transpose(kernels::clone(views::transpose(x, 1, 2)), 1, 2);
        cache.append(heads, x);
        const Tensor want = kernels::to_device(kernels::cast(x, dtype), {});
        CHECK(same_bits(kernels::to_device(cache.key(), {}), want));
        CHECK(same_bits(kernels::to_device(cache.value(), {}), want));
        CHECK(device_lengths(cache) == std::vector<int32_t>{300, 300});
      }
    }
  }
}

TEST_CASE("a cache that keeps the newest tokens forgets the others and still counts them") {
  for (const bool paged : {false, true}) {
    RandomScope scope(4);
    CacheOptions options;
    if (paged) options.pool = std::make_shared<PagePool>(8, 3);
    KvCache cache(7, options);
    const Tensor a = tokens(2, 9), b = tokens(2, 5);
    const auto row = [](const Tensor& x, int64_t i) { return views::select(x, 0, i); };
    const auto part = [&](const Tensor& x, int64_t i, int64_t first, int64_t last) {
      return views::slice(row(x, i), 1, first, last);
    };
    cache.append_newest(a, a, Sizes{3, 2}, Sizes{9, 4});
    CHECK(cache.lengths() == Sizes{3, 2});
    CHECK(cache.seen_of_each() == Sizes{9, 4});
    CHECK(cache.ends().to_vector<int32_t>() == std::vector<int32_t>{9, 4});
    CHECK(same_bits(views::slice(row(cache.value(), 1), 1, 0, 2), part(a, 1, 2, 4)));
    cache.append_newest(b, b, Sizes{7, 4});
    CHECK(cache.seen() == 14);
    CHECK(device_lengths(cache) == std::vector<int32_t>{7, 4});
    CHECK(same_bits(row(cache.key(), 0), concat({part(a, 0, 7, 9), row(b, 0)}, 1)));
    CHECK(same_bits(views::slice(row(cache.value(), 1), 1, 0, 4), part(b, 1, 1, 5)));
    CHECK(cache.has_states());
    CHECK_THROWS_WITH_AS(cache.truncate(Sizes{6, 4}), doctest::Contains("forgotten its beginning"),
                         Error);
    cache.truncate(Sizes{0, 4});
    CHECK(cache.seen_of_each() == Sizes{0, 9});
    cache.append_newest(b, b, Sizes{0, 0});
    CHECK(cache.length() == 0);
    CHECK(cache.bytes() == 0);
    CHECK(cache.seen_of_each() == Sizes{5, 14});
    if (paged) CHECK(options.pool->free_pages() == 8);
  }
}
