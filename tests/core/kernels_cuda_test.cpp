// Sums and indexed reads and writes on a CUDA device. Values are small integers, so that sums are
// exact in every dtype and must equal those of the CPU.
#include "tessera/core/kernels/accumulate.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/kernels/index.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8,   DType::boolean};

Tensor small_integers(const Shape& shape, DType dtype, uint64_t salt = 0) {
  const bool sign = is_floating(dtype) || dtype == DType::i64 || dtype == DType::i32;
  return kernels::cast(samples::integers(shape, sign ? -2 : 0, 3, salt), dtype);
}

// x as it is, and views of it that lie differently in memory.
std::vector<std::pair<std::string, Tensor>> layouts(const Tensor& x) {
  std::vector<std::pair<std::string, Tensor>> list = {{"dense", x}};
  const int64_t last = x.rank() - 1;
  if (x.rank() >= 2) {
    list.emplace_back("transposed", views::transpose(x, 0, last));
    list.emplace_back("expanded", views::expand(views::slice(x, 0, 0, 1), x.shape()));
  }
  if (x.rank() >= 1) {
    list.emplace_back("every second", views::slice(x, last, 0, x.size(last), 2));
    list.emplace_back("shifted by one", views::slice(x, last, 1, x.size(last)));
    if (x.size(last) > 0) {
      list.emplace_back("backwards", views::slice(x, last, x.size(last) - 1, -1, -1));
    }
  }
  return list;
}

Tensor host(const Tensor& x) {
  return kernels::to_device(x, {});
}

void check_equal(Failures& failures, const std::string& subject, const std::string& label,
                 const Tensor& got, const Tensor& want) {
  failures.compared();
  if (got.dtype() != want.dtype() || got.shape() != want.shape()) {
    failures.add(subject, fmt::format("[{}]: {} {}, the CPU gives {} {}", label, got.dtype(),
                                      got.shape(), want.dtype(), want.shape()));
    return;
  }
  const Distance d = distance(host(got), want);
  if (d.worst > 0) {
    failures.add(subject, fmt::format("[{}] entry {} of {}: {}, the CPU gives {}", label, d.at,
                                      got.shape(), d.got, d.want));
  }
}

const Shape kShapes[] = {{},           {1},          {5},          {0},           {3, 0},
                         {0, 3},       {7, 33},      {1025},       {70'001},      {3, 5000},
                         {5000, 3},    {2, 3, 4},    {3, 1, 5},    {2, 4099, 16}, {40, 3, 17},
                         {4097, 129},  {300, 8},     {2, 100'000}, {100'000, 2},  {20'000, 1, 7},
                         {2, 3, 2, 5}, {9000, 4, 8}, {64, 600},    {600, 2048}};

std::vector<Shape> dims_of(const Shape& shape) {
  std::vector<Shape> list = {{}};
  for (int64_t d = 0; d < shape.rank(); ++d) list.push_back({d});
  if (shape.rank() >= 3) list.insert(list.end(), {Shape{0, 2}, Shape{0, 1}, Shape{1, 2}});
  return list;
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("sums over any dimensions of any view equal those of the CPU, twice the same bits") {
    if (!has_gpu()) return;
    for (DType dtype : kAll) {
      Failures failures(fmt::format("sums of {}", dtype));
      for (const Shape& shape : kShapes) {
        for (const auto& view : layouts(small_integers(shape, dtype))) {
          const auto& layout = view.first;
          const Tensor& x = view.second;
          const Tensor y = placed(x, dtype, kGpu);
          for (const Shape& dims : dims_of(x.shape())) {
            const std::string label = fmt::format("{} {} over {}", layout, x.shape(), dims);
            attempt(failures, "sum", label, [&] {
              const Tensor got = kernels::sum(y, dims, true);
              check_equal(failures, "sum", label, got, kernels::sum(x, dims, true));
              if (!same_bits(host(got), host(kernels::sum(y, dims, true)))) {
                failures.add("sum", "[" + label + "]: other bits in a second run");
              }
            });
          }
        }
      }
      failures.report();
    }
  }

  TEST_CASE("sums of random numbers are as exact as their dtype") {
    if (!has_gpu()) return;
    Failures failures("random sums");
    for (const Shape& shape : {Shape{1'000'003}, Shape{3, 400'000}, Shape{400'000, 3},
                               Shape{700, 1000}, Shape{70'000, 24}}) {
      const Tensor x = samples::uniform(shape, 0, 1);
      for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
        const Tensor rounded = kernels::cast(kernels::cast(x, dtype), DType::f64);
        const Tensor y = kernels::to_device(kernels::cast(x, dtype), kGpu);
        for (const Shape& dims : dims_of(shape)) {
          // f16 ends at 65504.
          if (dtype == DType::f16 && x.numel() / kernels::sum(x, dims, false).numel() > 100'000) {
            continue;
          }
          compare(failures, fmt::format("{}", dtype), fmt::format("{} over {}", shape, dims), dtype,
                  {{"sum", host(kernels::sum(y, dims, false))}},
                  {{"sum", kernels::sum(rounded, dims, false)}});
        }
      }
    }
    failures.report();
  }

  TEST_CASE("in-place addition equals the CPU's for every pair of dtypes and every view") {
    if (!has_gpu()) return;
    Failures failures("in-place addition");
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{1000}, Shape{13, 40}, Shape{3, 5, 7}}) {
      for (DType to : kAll) {
        for (DType from : kAll) {
          for (const auto& view : layouts(small_integers(shape, to))) {
            const auto& layout = view.first;
            const Tensor& x = view.second;
            if (layout == "expanded") continue;  // one place for many sums
            const std::string label = fmt::format("{} {} += {}", layout, x.shape(), from);
            const Tensor here = placed(x, to, {}), there = placed(x, to, kGpu);
            // A negative number has no meaning as u8.
            const Tensor other =
                kernels::cast(small_integers(x.shape(), to == DType::u8 ? to : from, 1), from);
            attempt(failures, fmt::format("{}", to), label, [&] {
              kernels::add_in_place(here, other);
              kernels::add_in_place(there, placed(other, from, kGpu));
              check_equal(failures, fmt::format("{}", to), label, there, here);
            });
          }
        }
      }
    }
    failures.report();
  }

  TEST_CASE("take, gather and scatter move what the CPU moves; of equal places the last stays") {
    if (!has_gpu()) return;
    Failures failures("moves by index");
    for (DType dtype : kAll) {
      for (const Shape& shape : {Shape{5}, Shape{70, 3}, Shape{4, 9, 8}, Shape{600, 64}}) {
        for (int64_t dim = 0; dim < shape.rank(); ++dim) {
          for (const auto& view : layouts(small_integers(shape, dtype))) {
            const auto& layout = view.first;
            const Tensor& x = view.second;
            const Tensor y = placed(x, dtype, kGpu);
            const std::string label = fmt::format("{} {} along {}", layout, x.shape(), dim);
            const std::string subject = fmt::format("{}", dtype);
            const int64_t size = x.size(dim);
            if (size == 0) continue;
            Shape chosen = x.shape();
            chosen[dim] = 300;
            const Tensor ids = samples::integers({300}, 0, size);
            const Tensor index = samples::integers(chosen, 0, size, 1);
            attempt(failures, subject, label, [&] {
              const Tensor list = kernels::to_device(ids, kGpu);
              const Tensor table = kernels::to_device(index, kGpu);
              check_equal(failures, subject, "take, " + label, kernels::take(y, dim, list),
                          kernels::take(x, dim, ids));
              check_equal(failures, subject, "gather, " + label, kernels::gather(y, dim, table),
                          kernels::gather(x, dim, index));
              const Tensor source = small_integers(chosen, dtype, 2);
              const Tensor here = zeros(x.shape(), {dtype, {}});
              const Tensor there = zeros(x.shape(), {dtype, kGpu});
              kernels::scatter(here, dim, index, source);
              kernels::scatter(there, dim, table, kernels::to_device(source, kGpu));
              check_equal(failures, subject, "scatter, " + label, there, here);
            });
          }
        }
      }
    }
    failures.report();
  }

  TEST_CASE("additions by index equal the CPU's, with few, many and only equal indices") {
    if (!has_gpu()) return;
    Failures failures("additions by index");
    for (DType dtype : {DType::f64, DType::f32, DType::i64, DType::i32, DType::u8}) {
      for (const Shape& shape :
           {Shape{5}, Shape{1}, Shape{70, 3}, Shape{3, 9, 40}, Shape{600, 1}}) {
        for (int64_t dim = 0; dim < shape.rank(); ++dim) {
          for (int64_t count : {0, 1, 7, 33, 5000}) {
            const int64_t size = shape[dim];
            const std::string subject = fmt::format("{}", dtype);
            const std::string label = fmt::format("{} of {} along {}", count, shape, dim);
            Shape chosen = shape;
            chosen[dim] = count;
            const Tensor ids = samples::integers({count}, 0, size);
            const Tensor index = samples::integers(chosen, 0, size, 1);
            const Tensor source = small_integers(chosen, dtype, 2);
            attempt(failures, subject, label, [&] {
              const Tensor moved = kernels::to_device(source, kGpu);
              const Tensor here = small_integers(shape, dtype, 3);
              const Tensor there = placed(here, dtype, kGpu);
              kernels::add_at(here, dim, ids, source);
              kernels::add_at(there, dim, kernels::to_device(ids, kGpu), moved);
              check_equal(failures, subject, "add_at, " + label, there, here);
              kernels::scatter_add(here, dim, index, source);
              kernels::scatter_add(there, dim, kernels::to_device(index, kGpu), moved);
              check_equal(failures, subject, "scatter_add, " + label, there, here);
            });
          }
        }
      }
    }
    failures.report();
  }

  TEST_CASE("additions by index to halves are rounded once, and have the same bits twice") {
    if (!has_gpu()) return;
    Failures failures("additions of random numbers by index");
    const Tensor ids = samples::integers({4000}, 0, 50);
    const Tensor index = samples::integers({4000, 6}, 0, 50, 1);
    for (DType dtype : kFloating) {
      const Tensor source = kernels::cast(samples::normal({4000, 6}), dtype);
      const auto run = [&](DType in, Device device) {
        const Tensor y = zeros({50, 6}, {in, device}), z = zeros({50, 6}, {in, device});
        const Tensor moved = placed(source, in, device);
        kernels::add_at(y, 0, kernels::to_device(ids, device), moved);
        kernels::scatter_add(z, 0, kernels::to_device(index, device), moved);
        return Results{{"add_at", host(y)}, {"scatter_add", host(z)}};
      };
      const std::string subject = fmt::format("{}", dtype);
      const Results got = run(dtype, kGpu);
      compare(failures, subject, "(4000, 6) to 50", dtype, got, run(DType::f64, {}));
      compare_bits(failures, subject, "(4000, 6) to 50", got, run(dtype, kGpu));
    }
    failures.report();
  }

  TEST_CASE("more than 2³¹ elements are summed, whole, by rows and by columns") {
    if (!has_gpu()) return;
    constexpr int64_t kRows = 3, kSize = (int64_t{1} << 30) + 8;
    Tensor x;
    try {
      x = empty({kRows, kSize}, {DType::u8, kGpu});
    } catch (const Error& error) {
      MESSAGE("skipped: " << error.what());
      return;
    }
    kernels::fill(x, 1);
    CHECK(kernels::sum(x, {}, false).item<int64_t>() == kRows * kSize);
    CHECK(kernels::sum(x, {1}, false).to_vector<int64_t>() == std::vector<int64_t>(kRows, kSize));
    const Tensor columns = kernels::sum(x, {0}, false);
    CHECK(kernels::sum(columns, {}, false).item<int64_t>() == kRows * kSize);
    const Tensor turned = views::transpose(x, 0, 1);  // no copy: strides of the rows
    CHECK(kernels::sum(turned, {0}, false).to_vector<int64_t>() ==
          std::vector<int64_t>(kRows, kSize));
  }
}
