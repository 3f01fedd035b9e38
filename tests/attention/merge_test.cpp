#include "tessera/attention/merge.h"

#include <cmath>

#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/parallel.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

Tensor leaf(const Shape& shape, DType dtype = DType::f64, Device device = {}) {
  Tensor x = kernels::to_device(randn(shape, dtype), device);
  return x.set_requires_grad();
}

TensorList results_of(const AttentionResult& r, const TensorList& inputs) {
  const Device device = r.output.device();
  RandomScope scope(9);
  const Tensor w = kernels::to_device(randn(r.output.shape(), DType::f64), device);
  const Tensor u = kernels::to_device(randn(r.logsumexp.shape(), DType::f64), device);
  TensorList all = grad({sum(r.output * w) + sum(r.logsumexp * u)}, inputs);
  all.push_back(r.output.detach());
  all.push_back(r.logsumexp.detach());
  return all;
}

void check_partitions(Device device) {
  RandomScope scope(1);
  const Tensor q = leaf({2, 4, 5, 8}, DType::f64, device);
  const Tensor k = leaf({2, 2, 40, 8}, DType::f64, device);
  const Tensor v = leaf({2, 2, 40, 6}, DType::f64, device);
  const TensorList whole = results_of(dense_attention(q, k, v), {q, k, v});
  for (const std::vector<int64_t>& sizes : {std::vector<int64_t>{20, 20},
                                            {1, 39},
                                            {0, 40},
                                            {7, 13, 20},
                                            {0, 0, 40},
                                            std::vector<int64_t>(40, 1),
                                            std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 4}}) {
    CAPTURE(sizes.size());
    std::vector<AttentionResult> parts;
    int64_t begin = 0;
    for (int64_t size : sizes) {
      parts.push_back(
          dense_attention(q, slice(k, 2, begin, begin + size), slice(v, 2, begin, begin + size)));
      begin += size;
    }
    const TensorList merged = results_of(merge(parts), {q, k, v});
    for (size_t i = 0; i < whole.size(); ++i) CHECK(distance(merged[i], whole[i]).worst < 1e-12);
  }
}

void check_empty_parts(Device device) {
  RandomScope scope(2);
  std::vector<AttentionResult> parts;
  TensorList inputs;
  for (int p = 0; p < 2; ++p) {
    Tensor o = randn({1, 2, 3, 4}, DType::f64);
    Tensor lse = randn({1, 2, 3}, DType::f64);
    lse.data<double>()[0] = -INFINITY;  // row 0 sees nothing in either part
    if (p == 1) lse.data<double>()[1] = -INFINITY;
    o.data<double>()[0] = NAN;  // never read
    if (p == 1) o.data<double>()[5] = INFINITY;
    o = kernels::to_device(o, device);
    lse = kernels::to_device(lse, device);
    parts.push_back({o.set_requires_grad(), lse.set_requires_grad()});
    inputs.insert(inputs.end(), {o, lse});
  }
  const AttentionResult r = merge(parts);
  const Tensor seed = ones({1, 2, 3, 4}, {DType::f64, device});
  const Tensor down = ones({1, 2, 3}, {DType::f64, device});
  const TensorList g = grad({r.output, r.logsumexp}, inputs, {seed, down});
  const auto out = r.output.to_vector<double>(), lse = r.logsumexp.to_vector<double>();
  const auto first = parts[0].output.to_vector<double>();
  for (size_t d = 0; d < 4; ++d) {
    CHECK(out[d] == 0);
    CHECK(out[4 + d] == first[4 + d]);
    CHECK(g[0].to_vector<double>()[d] == 0);
    CHECK(g[0].to_vector<double>()[4 + d] == 1);
    CHECK(g[2].to_vector<double>()[4 + d] == 0);
  }
  CHECK(lse[0] == -INFINITY);
  CHECK(lse[1] == parts[0].logsumexp.to_vector<double>()[1]);
  for (const Tensor& x : g) {
    for (double e : x.to_vector<double>()) CHECK(std::isfinite(e));
  }
  CHECK(g[1].to_vector<double>()[0] == 0);
  CHECK(g[1].to_vector<double>()[1] == 1);
  CHECK(g[3].to_vector<double>()[1] == 0);
}

}  // namespace

TEST_CASE("merging any partition of the keys gives the whole, in values and gradients") {
  check_partitions({});
}

TEST_CASE("parts that saw no key have no weight, and none at all gives 0 and minus infinity") {
  check_empty_parts({});
}

TEST_CASE("merging one part gives that part, and the order of parts does not matter") {
  RandomScope scope(3);
  const AttentionResult a{randn({1, 2, 3, 4}), randn({1, 2, 3})};
  const AttentionResult b{randn({1, 2, 3, 4}), randn({1, 2, 3})};
  CHECK(merge(std::vector<AttentionResult>{a}).output.is_same(a.output));
  CHECK(distance(merge(a, b).output, merge(b, a).output).worst < 1e-6);
}

TEST_CASE("a merge is bit-equal for any number of threads") {
  RandomScope scope(4);
  const AttentionResult a{randn({2, 3, 200, 64}), randn({2, 3, 200})};
  const AttentionResult b{randn({2, 3, 200, 64}), randn({2, 3, 200})};
  const int threads = num_threads();
  set_num_threads(1);
  const AttentionResult one = merge(a, b);
  set_num_threads(2);
  const AttentionResult two = merge(a, b);
  set_num_threads(threads);
  CHECK(same_bits(one.output, two.output));
  CHECK(same_bits(one.logsumexp, two.logsumexp));
}

TEST_SUITE("cuda") {
  TEST_CASE("merging any partition of the keys on CUDA gives the whole") {
    if (!has_gpu()) return;
    check_partitions(kGpu);
    check_empty_parts(kGpu);
  }

  TEST_CASE("merging on CUDA gives what it gives on the CPU in f64 for wide rows and halves") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("merge in {}", dtype));
      for (const Shape& shape :
           {Shape{2, 3, 33, 64}, {1, 2, 7, 128}, {1, 1, 5, 300}, {2, 2, 3, 5}}) {
        const DType statistics = is_half(dtype) ? DType::f32 : dtype;
        RandomScope scope(5);
        TensorList o, lse;
        Shape rows = shape;
        rows.pop_back();
        for (int p = 0; p < 3; ++p) {
          o.push_back(randn(shape, DType::f64));
          lse.push_back(
              kernels::cast(kernels::cast(randn(rows, DType::f64), statistics), DType::f64));
        }
        auto run = [&](DType stored, Device device) {
          TensorList in = inputs_for(o, dtype, stored, device, true);
          const TensorList l =
              inputs_for(lse, statistics, stored == DType::f64 ? stored : statistics, device, true);
          in.insert(in.end(), l.begin(), l.end());
          return evaluate(
              [](const TensorList& x) {
                const AttentionResult r = merge({{x[0], x[3]}, {x[1], x[4]}, {x[2], x[5]}});
                return TensorList{r.output, r.logsumexp};
              },
              in, dtype);
        };
        compare(failures, fmt::format("{}", dtype), fmt::format("{}", shape), dtype,
                run(dtype, kGpu), run(DType::f64, {}));
      }
      failures.report();
    }
  }
}
