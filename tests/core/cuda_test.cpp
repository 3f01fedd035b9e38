// The CUDA runtime under the ops: copies, fills, memory, recorded graphs, errors.
#include "tessera/core/cuda/capture.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr DType kAll[] = {DType::f32, DType::f64, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

Tensor counting(const Shape& shape, DType dtype = DType::f32) {
  return views::reshape(arange(0, static_cast<double>(shape.numel()), 1, {dtype, {}}), shape);
}

Tensor on_gpu(const Tensor& x) {
  return kernels::to_device(x, kGpu);
}

// Views that a copy must walk: dense, a step, transposed, permuted, reversed, broadcast, askew to
// 16 bytes, empty, one element, and planes wide enough for tiles.
std::vector<Tensor> views_of(DType dtype, Device device) {
  const auto base = [&](const Shape& shape) {
    const Tensor small = kernels::cast(counting({shape.numel()}), DType::i64);
    std::vector<int64_t> values = small.to_vector<int64_t>();
    for (int64_t& value : values) value %= 101;  // exact in every dtype but bool
    return kernels::to_device(kernels::cast(from_values(values, shape), dtype), device);
  };
  return {base({7, 9}),
          views::slice(base({40}), 0, 1, 40, 3),
          views::transpose(base({33, 70}), 0, 1),
          views::transpose(base({3, 65, 40}), 1, 2),
          views::permute(base({3, 4, 5, 6}), {2, 0, 3, 1}),
          views::slice(base({12, 5}), 0, 11, -1, -2),
          views::expand(base({1, 6}), {5, 6}),
          views::slice(base({1000}), 0, 3, 997),
          views::slice(base({64, 32}), 1, 8, 24),
          base({0, 3}),
          base({})};
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("copies on a device convert every dtype to every other through every kind of view") {
    if (!has_gpu()) return;
    Failures failures("copies");
    for (DType from : kAll) {
      const std::vector<Tensor> here = views_of(from, {}), there = views_of(from, kGpu);
      for (DType to : kAll) {
        const std::string subject = fmt::format("{} from {}", to, from);
        for (size_t i = 0; i < here.size(); ++i) {
          attempt(failures, subject, fmt::format("view {}", i), [&] {
            const Tensor target = empty(here[i].shape(), {to, kGpu});
            kernels::copy(target, there[i]);
            const Tensor got = kernels::to_device(target, {});
            failures.compared();
            if (!same_bits(got, kernels::cast(here[i], to))) failures.add(subject, "differs");
          });
        }
      }
    }
    failures.report();
  }

  TEST_CASE("copies write through views and touch nothing between") {
    if (!has_gpu()) return;
    for (const Tensor& source : views_of(DType::f32, kGpu)) {
      if (source.rank() == 0) continue;
      Shape wide = source.shape();
      wide.back() *= 2;
      const Tensor room = full(wide, -1, {DType::f32, kGpu});
      const Tensor room_here = full(wide, -1);
      kernels::copy(views::slice(room, -1, 1, wide.back(), 2), source);
      kernels::copy(views::slice(room_here, -1, 1, wide.back(), 2), kernels::to_device(source, {}));
      CHECK(same_bits(kernels::to_device(room, {}), room_here));
    }
  }

  TEST_CASE("views travel between host and device, both ways and with a change of dtype") {
    if (!has_gpu()) return;
    for (const Tensor& x : views_of(DType::f32, {})) {
      CHECK(same_bits(kernels::to_device(on_gpu(x), {}), kernels::contiguous(x)));
      const Tensor half = empty(x.shape(), {DType::bf16, kGpu});
      kernels::copy(half, x);
      CHECK(same_bits(kernels::to_device(half, {}), kernels::cast(x, DType::bf16)));
      CHECK(half.to_vector<double>() == x.to_vector<double>());  // small integers
    }
    const std::vector<int64_t> large = {INT64_MAX, INT64_MIN, (int64_t{1} << 53) + 1};
    CHECK(on_gpu(from_values(large, {3})).to_vector<int64_t>() == large);
    CHECK(full({}, 2.5, {DType::f64, kGpu}).item() == 2.5);
  }

  TEST_CASE("halves are rounded on a device as on the CPU") {
    if (!has_gpu()) return;
    std::vector<float> values = {0.0f,     -0.0f,   1e-8f,    -6e-8f,    5.96e-8f, 65504.0f,
                                 65519.9f, 65520.f, INFINITY, -INFINITY, NAN,      3.4e38f};
    Generator random(3);
    for (int i = 0; i < 5000; ++i) {
      values.push_back(
          static_cast<float>(std::ldexp(random.normal(), static_cast<int>(random.below(80)) - 40)));
    }
    const Tensor x = from_values(values, {static_cast<int64_t>(values.size())});
    for (DType dtype : {DType::bf16, DType::f16}) {
      const Tensor there = kernels::to_device(kernels::cast(on_gpu(x), dtype), {});
      const Distance d = distance(there, kernels::cast(x, dtype));
      CHECK_MESSAGE(d.worst == 0, dtype << ": " << d.got << " for " << d.want);
    }
  }

  TEST_CASE("fill and arange give on a device what they give on the CPU") {
    if (!has_gpu()) return;
    for (DType dtype : kAll) {
      for (double value : {0.0, 1.0}) {
        const Tensor room = full({5, 7, 4}, 1 - value, {dtype, kGpu});
        const Tensor here = full({5, 7, 4}, 1 - value, {dtype, {}});
        for (const Tensor& x : {room, here}) {
          kernels::fill(views::slice(views::transpose(x, 0, 1), 2, 1, 4, 2), value);
        }
        CHECK(same_bits(kernels::to_device(room, {}), here));
      }
      if (dtype == DType::boolean) continue;
      CHECK(same_bits(kernels::to_device(arange(3, 100, 2, {dtype, kGpu}), {}),
                      arange(3, 100, 2, {dtype, {}})));
    }
    CHECK(same_bits(kernels::to_device(linspace(-1, 1, 33, {DType::f32, kGpu}), {}),
                    linspace(-1, 1, 33)));
    CHECK(same_bits(kernels::to_device(eye(5, {DType::f32, kGpu}), {}), eye(5)));
  }

  TEST_CASE("a freed block is used again, split and merged") {
    if (!has_gpu()) return;
    Allocator& memory = allocator(kGpu);
    synchronize(kGpu);
    memory.release_cached();
    const AllocatorStats start = memory.stats();
    constexpr size_t kBytes = size_t{64} << 20;
    void* whole = memory.allocate(kBytes);
    CHECK(reinterpret_cast<uintptr_t>(whole) % kAlignment == 0);
    const AllocatorStats first = memory.stats();
    CHECK(first.live == start.live + static_cast<int64_t>(kBytes));
    CHECK(first.reserved >= start.reserved + static_cast<int64_t>(kBytes));
    memory.deallocate(whole, kBytes);
    CHECK(memory.stats().live == start.live);
    CHECK(memory.stats().reserved == first.reserved);
    // Quarters of the same segment; all four come back as one.
    std::vector<void*> quarters;
    for (int i = 0; i < 4; ++i) quarters.push_back(memory.allocate(kBytes / 4));
    CHECK(memory.stats().system_calls == first.system_calls);
    for (int i : {2, 0, 3, 1}) memory.deallocate(quarters[static_cast<size_t>(i)], kBytes / 4);
    void* again = memory.allocate(kBytes);
    CHECK(again == whole);
    CHECK(memory.stats().system_calls == first.system_calls);
    memory.deallocate(again, kBytes);
    memory.release_cached();
    CHECK(memory.stats().reserved == start.reserved);
  }

  TEST_CASE("live device blocks do not overlap, and a second round asks the system for nothing") {
    if (!has_gpu()) return;
    const auto round = [] {
      Generator random(5);
      TensorList list;
      for (int i = 0; i < 200; ++i) {
        list.push_back(full({1 + random.below(int64_t{1} << (1 + i % 20))}, i, {DType::i32, kGpu}));
      }
      for (int i = 0; i < 200; ++i) {
        const std::vector<int32_t> values = list[static_cast<size_t>(i)].to_vector<int32_t>();
        REQUIRE(std::all_of(values.begin(), values.end(), [i](int32_t v) { return v == i; }));
      }
    };
    round();
    const AllocatorStats before = allocator(kGpu).stats();
    round();
    const AllocatorStats after = allocator(kGpu).stats();
    CHECK(after.system_calls == before.system_calls);
    CHECK(after.live == before.live);
  }

  TEST_CASE("the peak follows what was live and can be reset") {
    if (!has_gpu()) return;
    Allocator& memory = allocator(kGpu);
    const int64_t live = memory.stats().live;
    memory.reset_peak();
    CHECK(memory.stats().peak == live);
    { const Tensor x = empty({1 << 20}, {DType::f64, kGpu}); }
    CHECK(memory.stats().live == live);
    CHECK(memory.stats().peak == live + (8 << 20));
    memory.reset_peak();
    CHECK(memory.stats().peak == live);
  }

  TEST_CASE("more than a device's limit is refused with the figures, and kept blocks make room") {
    if (!has_gpu()) return;
    Allocator& memory = allocator(kGpu);
    memory.release_cached();
    const int64_t machine = memory.limit();
    memory.deallocate(memory.allocate(64 << 20), 64 << 20);  // kept for reuse
    memory.set_limit(memory.stats().reserved);
    void* block = nullptr;
    CHECK_NOTHROW(block = memory.allocate(48 << 20));
    std::string message;
    try {
      memory.allocate(size_t{128} << 20);
    } catch (const Error& error) {
      message = error.what();
    }
    memory.set_limit(machine);
    if (block != nullptr) memory.deallocate(block, 48 << 20);
    for (const char* part :
         {"memory: ", "cuda:0", "134217728", "live", "reserved", "make the batch"}) {
      CHECK_MESSAGE(message.find(part) != std::string::npos, "\"" << part << "\" in: " << message);
    }
    CHECK_NOTHROW(memory.deallocate(memory.allocate(size_t{128} << 20), size_t{128} << 20));
    memory.release_cached();
  }

  TEST_CASE("a recorded graph runs again on new contents and keeps its memory to itself") {
    if constexpr (kCuda) {
      if (!has_gpu()) return;
      const Tensor in = full({1000}, 1, {DType::f32, kGpu});
      const Tensor out = zeros({1000}, {DType::f32, kGpu});
      Tensor inside;
      const CapturedGraph graph(kGpu, [&] {
        inside = empty({1000}, {DType::bf16, kGpu});
        kernels::copy(inside, in);  // converts
        kernels::copy(out, inside);
        kernels::fill(views::slice(out, 0, 0, 10), 5);
      });
      CHECK(graph.nodes() == 3);
      CHECK(out.to_vector<float>()[500] == 0);  // recording runs nothing
      for (float value : {2.0f, 3.0f}) {
        kernels::fill(in, value);
        // Ordinary tensors of the same size must not land in the graph's memory.
        const Tensor other = full({1000}, 9, {DType::bf16, kGpu});
        graph.replay();
        CHECK(other.raw_data() != inside.raw_data());
        CHECK(other.to_vector<float>() == std::vector<float>(1000, 9));
        CHECK(inside.to_vector<float>() == std::vector<float>(1000, value));
        const std::vector<float> result = out.to_vector<float>();
        CHECK(result[9] == 5);
        CHECK(result[10] == value);
        CHECK(result[999] == value);
      }
    }
  }

  TEST_CASE("what waits for the device while a graph is recorded is an error, and recording ends") {
    if constexpr (kCuda) {
      if (!has_gpu()) return;
      const Tensor x = full({4}, 1, {DType::f32, kGpu});
      CHECK_THROWS_AS(CapturedGraph(kGpu, [&] { (void)x.item(); }), Error);
      CHECK_THROWS_AS(CapturedGraph(kGpu, [&] { (void)x.to_vector<float>(); }), Error);
      CHECK_THROWS_AS(CapturedGraph(kGpu, [&] { (void)on_gpu(tensor({1, 2}, {2})); }), Error);
      const CapturedGraph graph(kGpu, [&] { kernels::fill(x, 3); });
      graph.replay();
      CHECK(x.to_vector<float>() == std::vector<float>(4, 3));
    }
  }

  TEST_CASE("memory of a graph goes back when the graph and its tensors are gone") {
    if constexpr (kCuda) {
      if (!has_gpu()) return;
      allocator(kGpu).release_cached();
      const AllocatorStats before = allocator(kGpu).stats();
      {
        Tensor kept;
        const CapturedGraph graph(kGpu, [&] { kept = full({1 << 22}, 1, {DType::f32, kGpu}); });
        CHECK(allocator(kGpu).stats().reserved > before.reserved);
      }
      allocator(kGpu).release_cached();
      const AllocatorStats after = allocator(kGpu).stats();
      CHECK(after.live == before.live);
      CHECK(after.reserved <= before.reserved);
    }
  }

  TEST_CASE("devices that are not there, and tensors on a device given to CPU code, are errors") {
    if (!has_gpu()) return;
    CHECK(device_from_name("cuda") == kGpu);
    CHECK_THROWS_WITH_AS(device_from_name("cuda:99"), doctest::Contains("\"cuda:99\""), Error);
    CHECK_THROWS_WITH_AS(empty({2}, {DType::f32, {Device::Kind::cuda, 99}}),
                         doctest::Contains("cuda:99"), Error);
    const Tensor x = empty({2}, {DType::f32, kGpu});
    CHECK_THROWS_WITH_AS(x.data<float>(), doctest::Contains("cuda:0"), Error);
    CHECK_THROWS_WITH_AS(kernels::copy(x, empty({3})), doctest::Contains("shapes differ"), Error);
  }

  TEST_CASE("tensors of more than 2³¹ elements are copied, filled and converted whole") {
    constexpr int64_t kRow = 1 << 16;
    constexpr int64_t kRows = (1 << 15) + 3;  // 2³¹ elements and three rows
    if (!has_gpu_memory(4 * kRow * kRows + (int64_t{1} << 30))) return;
    const Tensor row = counting({kRow}, DType::i64);
    const Tensor bytes = on_gpu(kernels::cast(row, DType::u8));
    const Tensor large = empty({kRows, kRow}, {DType::u8, kGpu});
    kernels::copy(large, views::expand(views::unsqueeze(bytes, 0), {kRows, kRow}));
    const Tensor halves = kernels::cast(large, DType::bf16);
    const Tensor turned = kernels::contiguous(views::transpose(large, 0, 1));
    const Tensor want = kernels::to_device(bytes, {});
    for (int64_t i : {int64_t{0}, kRows / 2, kRows - 4, kRows - 3, kRows - 1}) {
      CHECK(same_bits(kernels::to_device(views::select(large, 0, i), {}), want));
      CHECK(same_bits(kernels::to_device(views::select(halves, 0, i), {}),
                      kernels::cast(want, DType::bf16)));
      CHECK(same_bits(kernels::to_device(views::select(turned, 1, i), {}), want));
    }
    kernels::fill(views::slice(large, 1, 1, kRow, 2), 7);
    const std::vector<uint8_t> last = views::select(large, 0, kRows - 1).to_vector<uint8_t>();
    CHECK(last[1] == 7);
    CHECK(last[kRow - 1] == 7);
    CHECK(last[kRow - 2] == want.to_vector<uint8_t>()[kRow - 2]);
    allocator(kGpu).release_cached();
  }
}
