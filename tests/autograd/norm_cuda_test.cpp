#include <doctest/doctest.h>

#include <cmath>
#include <functional>

#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/rotary.h"
#include "tessera/autograd/ops/triangle.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/tests/support.h"

using namespace tessera;

namespace {

constexpr Device kDevice{Device::Kind::cuda, 0};
constexpr DType kDTypes[] = {DType::f32, DType::f64, DType::bf16, DType::f16};

double tolerance(DType dtype) {
  if (dtype == DType::f64) return 1e-11;
  if (dtype == DType::f32) return 1e-5;
  return dtype == DType::bf16 ? 0x1p-6 : 0x1p-9;  // two units: sums round on the way
}

// The outputs of fn and the gradients of its floating inputs; output i receives grads[i].
TensorList results(const TensorFunction& fn, const TensorList& inputs, const TensorList& grads) {
  TensorList leaves;
  for (const Tensor& x : inputs) {
    leaves.push_back(x.defined() ? x.detach() : x);
    if (x.defined() && is_floating(x.dtype())) leaves.back().set_requires_grad();
  }
  const TensorList outputs = fn(leaves);
  TensorList all, used;
  for (const Tensor& y : outputs) all.push_back(y.detach());
  for (size_t i = 0; i < outputs.size(); ++i) {
    used.push_back(grads[i].to(outputs[i].dtype()).to(outputs[i].device()));
  }
  backward(outputs, used);
  for (const Tensor& leaf : leaves) {
    if (leaf.defined() && is_floating(leaf.dtype())) all.push_back(leaf.grad());
  }
  return all;
}

void check_close(const Tensor& got, const Tensor& wanted, double relative) {
  REQUIRE(got.defined() == wanted.defined());
  if (!got.defined()) return;
  REQUIRE(got.shape() == wanted.shape());
  const std::vector<double> a = got.to_vector<double>(), b = wanted.to_vector<double>();
  double squares = 0, worst = 0;
  for (double v : b) squares += v * v;
  const double size = std::sqrt(squares / std::max(1.0, static_cast<double>(b.size())));
  bool finite = true;
  for (size_t i = 0; i < a.size(); ++i) {
    finite = finite && std::isfinite(a[i]);
    worst = std::max(worst, std::abs(a[i] - b[i]) / std::max({std::abs(b[i]), size, 1.0}));
  }
  CHECK(finite);
  CHECK(worst <= relative);
}

// fn on the device in `dtype` (its inputs from the second on in `parameters`) against the CPU in
// f64 on the same rounded values; twice the same bits.
void check_on_device(const TensorFunction& fn, const TensorList& inputs, const TensorList& grads,
                     DType dtype, std::optional<DType> parameters = {}, size_t first = 1) {
  TensorList here, there, rounded;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor x = inputs[i];
    if (x.defined() && x.dtype() == DType::f64) {
      x = x.to(i >= first ? parameters.value_or(dtype) : dtype);
    }
    there.push_back(x.defined() ? x.to(kDevice) : x);
    here.push_back(x.defined() && is_floating(x.dtype()) ? x.to(DType::f64) : x);
  }
  for (const Tensor& g : grads) rounded.push_back(g.to(dtype).to(DType::f64));
  const TensorList wanted = results(fn, here, rounded);
  const TensorList got = results(fn, there, rounded);
  const TensorList again = results(fn, there, rounded);
  REQUIRE(got.size() == wanted.size());
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    check_close(got[i], wanted[i], tolerance(dtype));
    if (got[i].defined()) CHECK(got[i].to_vector<double>() == again[i].to_vector<double>());
  }
}

const TensorFunction kLayer = [](const TensorList& x) {
  return TensorList{layer_norm(x[0], x[1], x[2], 1e-3)};
};
const TensorFunction kRms = [](const TensorList& x) {
  return TensorList{rms_norm(x[0], x[1], 1e-3)};
};
const TensorFunction kAddLayer = [](const TensorList& x) {
  const AddNormResult r = add_layer_norm(x[0], x[1], x[2], x[3], 1e-3);
  return TensorList{r.sum, r.y};
};
const TensorFunction kAddRms = [](const TensorList& x) {
  const AddNormResult r = add_rms_norm(x[0], x[1], x[2], 1e-3);
  return TensorList{r.sum, r.y};
};

void check_rows(int64_t rows, int64_t width, DType dtype, std::optional<DType> parameters = {}) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(name(dtype));
  const Tensor x = samples::normal({rows, width}), branch = samples::normal({rows, width}, 1);
  const Tensor w = samples::uniform({width}, 0.5, 1.5, 2), b = samples::normal({width}, 3);
  const Tensor g = samples::normal({rows, width}, 4), h = samples::normal({rows, width}, 5);
  check_on_device(kLayer, {x, w, b}, {g}, dtype, parameters);
  check_on_device(kAddLayer, {x, branch, w, b}, {h, g}, dtype, parameters, 2);
  if (width == 1) return;  // the gradient through x / |x| cancels
  check_on_device(kRms, {x, w}, {g}, dtype, parameters);
  check_on_device(kAddRms, {x, branch, w}, {h, g}, dtype, parameters, 2);
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("row norms of every width agree with the CPU") {
    if (!test::has_gpu()) return;
    for (const DType dtype : kDTypes) {
      for (const int64_t width : {1, 7, 64, 384, 768, 1000, 1024, 1536, 4096, 10000}) {
        for (const int64_t rows : {1, 37}) check_rows(rows, width, dtype);
      }
      check_rows(3, 70001, dtype);  // wider than shared memory
    }
  }

  TEST_CASE("row norms of many rows agree with the CPU") {
    if (!test::has_gpu()) return;
    for (const DType dtype : kDTypes) {
      check_rows(5000, 64, dtype);
      check_rows(5000, 768, dtype);
      check_rows(600, 1536, dtype);
      check_rows(600, 1001, dtype);
    }
  }

  TEST_CASE("row norms of halves take f32 parameters") {
    if (!test::has_gpu()) return;
    for (const DType dtype : {DType::bf16, DType::f16}) {
      for (const int64_t width : {7, 768, 2048}) check_rows(37, width, dtype, DType::f32);
    }
  }

  TEST_CASE("row norms work on views, without parameters and on nothing") {
    if (!test::has_gpu()) return;
    for (const DType dtype : kDTypes) {
      const Tensor wide = samples::normal({9, 770});
      const TensorFunction sliced = [](const TensorList& x) {
        return kAddLayer({slice(x[0], 1, 1, 769), slice(x[1], 0, 1), x[2], {}});
      };
      const Tensor g = samples::normal({9, 768}, 1);
      check_on_device(sliced, {wide, samples::normal({10, 768}, 2), samples::normal({768}, 3)},
                      {g, g}, dtype, {}, 2);
      check_on_device(kLayer, {samples::normal({9, 768}), {}, {}}, {g}, dtype);
      check_on_device(kLayer, {samples::normal({0, 8}), samples::normal({8}), samples::normal({8})},
                      {samples::normal({0, 8})}, dtype);
      const TensorFunction only_sum = [](const TensorList& x) {
        return TensorList{add_rms_norm(x[0], x[1]).sum};
      };
      check_on_device(only_sum, {samples::normal({9, 768}), samples::normal({9, 768}, 2)}, {g},
                      dtype, {}, 2);
    }
  }

  TEST_CASE("batch, group and instance norm agree with the CPU") {
    if (!test::has_gpu()) return;
    for (const DType dtype : kDTypes) {
      for (const Shape& shape : {Shape{4, 6, 16, 16}, Shape{3, 6, 7, 7}, Shape{300, 6},
                                 Shape{2, 6, 70000}, Shape{5, 6, 3}, Shape{1, 6}}) {
        CAPTURE(name(dtype));
        CAPTURE(shape.numel());
        const Tensor x = samples::normal(shape), g = samples::normal(shape, 1);
        const Tensor w = samples::normal({6}, 2), b = samples::normal({6}, 3);
        for (const int64_t groups : {0, 1, 3, 6}) {
          CAPTURE(groups);
          if (shape.numel() / 6 <= 3 && groups != 1) continue;  // few values: gradients cancel
          const TensorFunction norm = [groups](const TensorList& in) {
            return TensorList{groups == 0 ? batch_norm(in[0], in[1], in[2], 1e-3).y
                                          : group_norm(in[0], groups, in[1], in[2], 1e-3)};
          };
          if (groups > 1 && shape.numel() / shape[0] / groups < 6) continue;
          check_on_device(norm, {x, w, b}, {g}, dtype);
          check_on_device(norm, {x, {}, {}}, {g}, dtype);
          if (is_half(dtype)) check_on_device(norm, {x, w, b}, {g}, dtype, DType::f32);
        }
      }
    }
  }

  TEST_CASE("batch norm on a device keeps the statistics of the batch") {
    if (!test::has_gpu()) return;
    const Tensor x = samples::normal({8, 5, 33});
    const BatchNormResult here = batch_norm(x), there = batch_norm(x.to(kDevice));
    check_close(there.mean, here.mean, 1e-11);
    check_close(there.variance, here.variance, 1e-11);
  }

  TEST_CASE("rotary positions agree with the CPU, also far away") {
    if (!test::has_gpu()) return;
    std::vector<int64_t> far;
    for (int64_t i = 0; i < 40; ++i) far.push_back(i * 25'000 + 3);
    const Tensor positions = from_values(far, {40});
    for (const DType dtype : kDTypes) {
      for (const bool interleaved : {false, true}) {
        for (const int64_t width : {2, 6, 64, 128, 320}) {
          const RotaryOptions options{.interleaved = interleaved, .rotary_dim = width};
          const Tensor x = samples::normal({2, 40, 3, width + 16}), at = positions;
          const TensorFunction turn = [options, at](const TensorList& in) {
            return TensorList{rotary(transpose(in[0], 1, 2), at.to(in[0].device()), options)};
          };
          CAPTURE(width);
          check_on_device(turn, {x}, {samples::normal({2, 3, 40, width + 16}, 1)}, dtype);
        }
      }
    }
    const Tensor table = turns(positions, {1, 0.1, 1e-4}, DType::f32);
    const Tensor there = turns(positions.to(kDevice), {1, 0.1, 1e-4}, DType::f32);
    check_close(there, table, 1e-6);
  }

  TEST_CASE("triangles of every dtype agree with the CPU") {
    if (!test::has_gpu()) return;
    for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::u8}) {
      const Tensor x = samples::integers({3, 37, 50}, 1, 100).to(dtype);
      for (const int64_t diagonal : {0, -3, 4, 60, -60}) {
        for (const auto& op : {tril, triu}) {
          CHECK(op(x.to(kDevice), diagonal).to_vector<double>() ==
                op(x, diagonal).to_vector<double>());
        }
      }
    }
  }
}
