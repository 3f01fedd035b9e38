// Losses, softmax, embedding and dropout on a device at the sizes at which their kernels change:
// rows held by a warp or a block, in vectors or not, in shared memory or not.
#include "tessera/autograd/ops/loss.h"

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/cross_entropy.h"
#include "tessera/autograd/ops/dropout.h"
#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

// The function on the CPU in f64 and, twice, on the device.
void check_sample(Failures& failures, const std::string& subject, const std::string& label,
                  const TensorList& inputs, DType dtype, const TensorFunction& run) {
  const std::string what = fmt::format("{} {}", subject, dtype);
  const auto on_gpu = [&] {
    return evaluate(run, inputs_for(inputs, dtype, dtype, kGpu, true), dtype);
  };
  const Results want = evaluate(run, inputs_for(inputs, dtype, DType::f64, {}, true), dtype);
  const Results got = on_gpu();
  compare(failures, what, label, dtype, got, want);
  compare_bits(failures, what, label, got, on_gpu());
}

// 100'001 columns fit into shared memory in no dtype, 50'304 in all but f64.
constexpr int64_t kColumns[] = {1, 5, 64, 1000, 1023, 1025, 2048, 12'345, 50'304, 100'001};

std::string columns_text(int64_t n) {
  return fmt::format("{} columns", n);
}

}  // namespace

TEST_SUITE_BEGIN("cuda");

TEST_CASE("softmax and log_softmax of rows of any length") {
  if (!has_gpu()) return;
  Failures failures("softmax");
  for (DType dtype : kFloating) {
    for (int64_t n : kColumns) {
      const TensorList x = {samples::normal({3, n}) * 3};
      check_sample(failures, "softmax", columns_text(n), x, dtype,
                   [](const TensorList& in) { return TensorList{softmax(in[0], -1)}; });
      check_sample(failures, "log_softmax", columns_text(n), x, dtype,
                   [](const TensorList& in) { return TensorList{log_softmax(in[0], -1)}; });
    }
    check_sample(failures, "softmax", "rows that are not aligned", {samples::normal({5, 1025})},
                 dtype, [](const TensorList& in) {
                   return TensorList{softmax(slice(in[0], 1, 1, 1025), -1), softmax(in[0], 0)};
                 });
    check_sample(failures, "softmax", "no rows", {samples::normal({0, 7})}, dtype,
                 [](const TensorList& in) { return TensorList{softmax(in[0], -1)}; });
  }
  failures.report();
}

TEST_CASE("rows of minus infinity stay so, with zero gradient, on a device") {
  if (!has_gpu()) return;
  for (int64_t n : {3, 3000}) {
    Tensor x = full({2, n}, -INFINITY, {DType::f32, kGpu});
    x.set_requires_grad();
    for (double v : softmax(x, -1).to_vector<double>()) CHECK(v == 0);
    for (double v : log_softmax(x, -1).to_vector<double>()) CHECK(v == -INFINITY);
    sum(softmax(x, -1)).backward();
    for (double v : x.grad().to_vector<double>()) CHECK(v == 0);
  }
}

TEST_CASE("cross entropy of rows of any length, smoothed and with ignored targets") {
  if (!has_gpu()) return;
  Failures failures("cross_entropy");
  for (DType dtype : kFloating) {
    for (int64_t n : kColumns) {
      const TensorList in = {samples::normal({5, n}), samples::integers({5}, -1, n)};
      for (const CrossEntropyOptions& options :
           {CrossEntropyOptions{}, CrossEntropyOptions{.label_smoothing = 0.1},
            CrossEntropyOptions{.reduction = Reduction::none},
            CrossEntropyOptions{.reduction = Reduction::sum}}) {
        check_sample(failures, "cross_entropy", columns_text(n), in, dtype,
                     [options](const TensorList& x) {
                       return TensorList{cross_entropy(x[0], x[1], options)};
                     });
      }
    }
  }
  failures.report();
}

TEST_CASE("the head with its loss on a device, over several chunks") {
  if (!has_gpu()) return;
  Failures failures("linear_cross_entropy");
  struct Size {
    int64_t rows, width, classes;
  };
  for (DType dtype : kFloating) {
    for (const Size& s : {Size{1, 8, 5}, Size{70, 16, 1000}, Size{33, 8, 1025}, Size{9, 8, 50'304},
                          Size{1100, 8, 140'003}}) {
      if (s.rows > 1000 && dtype == DType::f64) continue;  // more memory than a test should take
      const TensorList in = {samples::normal({s.rows, s.width}),
                             samples::normal({s.classes, s.width}, 1),
                             samples::integers({s.rows}, -1, s.classes)};
      for (double smoothing : {0.0, 0.1}) {
        if (smoothing > 0 && s.rows > 1000) continue;
        check_sample(failures, "linear_cross_entropy",
                     fmt::format("{} rows, {} classes", s.rows, s.classes), in, dtype,
                     [smoothing](const TensorList& x) {
                       return TensorList{
                           linear_cross_entropy(x[0], x[1], x[2], {.label_smoothing = smoothing})};
                     });
      }
    }
  }
  failures.report();
}

TEST_CASE("the gradient of a head can be asked for twice, with other factors") {
  if (!has_gpu()) return;
  const auto leaf = [](const Tensor& x) {
    Tensor y = kernels::to_device(kernels::cast(x, DType::f32), kGpu);
    return y.set_requires_grad();
  };
  const Tensor h = leaf(samples::normal({6, 4}));
  const Tensor w = leaf(samples::normal({9, 4}, 1));
  const Tensor targets = kernels::to_device(samples::integers({6}, 0, 9), kGpu);
  const Tensor loss = linear_cross_entropy(h, w, targets);
  const auto gradient = [&](double factor, bool keep) {
    const Tensor g = full({}, factor, {DType::f32, kGpu});
    return grad({loss}, {w}, {g}, {.retain_graph = keep})[0].to_vector<double>();
  };
  const auto once = gradient(1, true);
  const auto none = gradient(0, true);
  const auto half = gradient(0.5, true);
  const auto triple = gradient(3, false);
  for (size_t i = 0; i < once.size(); ++i) {
    CHECK(none[i] == 0);
    CHECK(half[i] == once[i] * 0.5);
    CHECK(triple[i] == doctest::Approx(once[i] * 3).epsilon(1e-6));
  }
}

TEST_CASE("without recording the head makes the same loss") {
  if (!has_gpu()) return;
  const Tensor h = kernels::to_device(samples::normal({40, 8}), kGpu);
  Tensor w = kernels::to_device(samples::normal({3000, 8}, 1), kGpu);
  const Tensor targets = kernels::to_device(samples::integers({40}, -1, 3000), kGpu);
  const double plain = linear_cross_entropy(h, w, targets).item();
  w.set_requires_grad();
  CHECK(linear_cross_entropy(h, w, targets).item() == plain);
}

TEST_CASE("embedding on a device: repeated ids, runs over many items, tied weights") {
  if (!has_gpu()) return;
  Failures failures("embedding");
  struct Size {
    int64_t count, classes, width;
  };
  for (DType dtype : kFloating) {
    for (const Size& s :
         {Size{1, 1, 1}, Size{31, 7, 3}, Size{32, 1, 8}, Size{33, 2, 16}, Size{64, 1, 5},
          Size{1000, 3, 768}, Size{5000, 50'304, 40}, Size{777, 10, 2056}, Size{200, 150, 300}}) {
      const TensorList in = {samples::normal({s.classes, s.width}),
                             samples::integers({s.count}, 0, s.classes)};
      const std::string label =
          fmt::format("{} ids of {}, {} columns", s.count, s.classes, s.width);
      // Scaled, so that sums of many rows stay near 1 and their roundings near one another's.
      const double scale = static_cast<double>(s.classes) / static_cast<double>(s.count);
      check_sample(failures, "embedding", label, in, dtype, [scale](const TensorList& x) {
        return TensorList{embedding(x[0], x[1]) * std::min(1.0, scale)};
      });
    }
    check_sample(failures, "embedding", "tied to the head",
                 {samples::normal({50, 8}), samples::integers({100}, 0, 50),
                  samples::integers({100}, -1, 50)},
                 dtype, [](const TensorList& x) {
                   const Tensor hidden = embedding(x[0], x[1]);
                   return TensorList{linear_cross_entropy(hidden, x[0], x[2])};
                 });
  }
  failures.report();
}

TEST_CASE("dropout on a device has the masks of the CPU, forward and backward") {
  if (!has_gpu()) return;
  Failures failures("dropout");
  for (DType dtype : kFloating) {
    for (const Shape& shape : {Shape{0}, Shape{1}, Shape{5}, Shape{1000}, Shape{7, 33, 40}}) {
      check_sample(failures, "dropout", to_string(shape), {samples::normal(shape)}, dtype,
                   [](const TensorList& x) { return TensorList{dropout(x[0], 0.3)}; });
      check_sample(failures, "drop_path", to_string(shape), {samples::normal(shape)}, dtype,
                   [](const TensorList& x) { return TensorList{drop_path(x[0], 0.3)}; });
    }
    check_sample(failures, "drop_path", "long samples", {samples::normal({9, 70, 640})}, dtype,
                 [](const TensorList& x) { return TensorList{drop_path(x[0], 0.5)}; });
    check_sample(
        failures, "dropout", "not aligned", {samples::normal({1003})}, dtype,
        [](const TensorList& x) { return TensorList{dropout(slice(x[0], 0, 1, 1003), 0.3)}; });
  }
  failures.report();
}

TEST_CASE("a replayed graph drops other elements at every step, the same ones in its backward") {
  if (!has_gpu()) return;
  Tensor x = ones({5000}, {DType::f32, kGpu});
  x.set_requires_grad();
  const auto eager = [&](uint64_t step) {
    RandomScope scope(3, step);
    return dropout(x, 0.4).to_vector<float>();
  };
  const auto first = eager(1);
  grad({sum(dropout(x, 0.4))}, {x});
  Tensor y, gradient;
  const CapturedGraph graph(kGpu, [&] {
    RandomScope scope(3, 0);
    const Tensor dropped = dropout(x, 0.4);
    y = dropped.detach();
    gradient = grad({sum(dropped)}, {x})[0];
  });
  for (uint64_t step : {1u, 2u, 1u}) {
    set_captured_step(kGpu, step);
    graph.replay();
    CHECK(y.to_vector<float>() == eager(step));
    CHECK(gradient.to_vector<float>() == y.to_vector<float>());
  }
  CHECK(first == eager(1));
}

TEST_CASE("a loss and its gradient are recorded into a graph") {
  if (!has_gpu()) return;
  const Tensor h = kernels::to_device(samples::normal({64, 16}), kGpu);
  Tensor w = kernels::to_device(samples::normal({100, 16}, 1), kGpu);
  w.set_requires_grad();
  const Tensor ids = kernels::to_device(samples::integers({64}, 0, 100), kGpu);
  const Tensor targets = kernels::to_device(samples::integers({64}, -1, 100), kGpu);
  const auto step = [&] {
    const Tensor loss = linear_cross_entropy(embedding(w, ids) + h, w, targets);
    return TensorList{loss.detach(), grad({loss}, {w})[0]};
  };
  const TensorList eager = step();
  TensorList replayed;
  const CapturedGraph graph(kGpu, [&] { replayed = step(); });
  graph.replay();
  for (size_t i = 0; i < eager.size(); ++i) {
    CHECK(replayed[i].to_vector<double>() == eager[i].to_vector<double>());
  }
}

TEST_SUITE_END();
