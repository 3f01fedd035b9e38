// Windows, pooling, resizing, sampling and Fourier transforms on a CUDA device beyond the samples
// of the registry: larger and odder sizes, chunks of samples, collisions, recorded graphs.
#include "tessera/autograd/ops/axis_map.h"
#include "tessera/autograd/ops/conv.h"
#include "tessera/autograd/ops/fft.h"
#include "tessera/autograd/ops/grid_sample.h"
#include "tessera/autograd/ops/interpolate.h"
#include "tessera/autograd/ops/pad.h"
#include "tessera/autograd/ops/plane_gather.h"
#include "tessera/autograd/ops/pool.h"
#include "tessera/autograd/ops/unfold.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

struct Case {
  std::string label;
  TensorList inputs;
  TensorFunction run;
};

template <class Fn>
Case make_case(const std::string& label, const TensorList& inputs, Fn fn) {
  return {label, inputs, [fn](const TensorList& x) { return TensorList{fn(x)}; }};
}

// Values and gradients against the CPU in f64, and the same bits in a second run. Only the first
// order: the registry's samples cover the second.
void check_cases(const std::string& subject, const std::vector<Case>& cases,
                 std::initializer_list<DType> dtypes = {DType::f64, DType::f32, DType::bf16,
                                                        DType::f16}) {
  if (!has_gpu()) return;
  for (const DType dtype : dtypes) {
    Failures failures(fmt::format("{} in {}", subject, dtype));
    for (const Case& c : cases) {
      Results want, got, again;
      const auto on_gpu = [&] {
        return evaluate(c.run, inputs_for(c.inputs, dtype, dtype, kGpu, true), dtype);
      };
      const bool ran = attempt_case(failures, subject, c.label, [&] {
        want = evaluate(c.run, inputs_for(c.inputs, dtype, DType::f64, {}, true), dtype);
        got = on_gpu();
        again = on_gpu();
      });
      if (!ran) continue;
      compare(failures, subject, c.label, dtype, got, want);
      compare_bits(failures, subject, c.label, got, again);
    }
    failures.report();
  }
}

Case conv_case(const std::string& label, const Shape& x, const Shape& w, bool bias,
               const ConvOptions& options) {
  return make_case(
      label,
      {samples::normal(x), samples::normal(w, 1), bias ? samples::normal({w[0]}, 2) : Tensor()},
      [=](const TensorList& in) {
        const auto conv = x.rank() == 3 ? conv1d : x.rank() == 4 ? conv2d : conv3d;
        return conv(in[0], in[1], in[2], options);
      });
}

std::vector<Case> conv_cases() {
  return {
      conv_case("3 × 3", {5, 7, 19, 23}, {11, 7, 3, 3}, true, {.padding = {1}}),
      conv_case("stride, padding and dilation", {3, 4, 21, 18}, {6, 4, 3, 4}, true,
                {.stride = {2, 3}, .padding = {2, 3}, .dilation = {3, 2}}),
      conv_case("stride and dilation with a common factor", {2, 3, 31, 30}, {5, 3, 3, 3}, false,
                {.stride = {2, 4}, .padding = {1}, .dilation = {4, 2}}),
      conv_case("few groups, many samples", {9, 6, 13, 11}, {8, 3, 3, 3}, true, {.groups = 2}),
      conv_case("many groups, few samples", {2, 24, 9, 7}, {16, 3, 3, 2}, true,
                {.padding = {1}, .groups = 8}),
      conv_case("1 × 1", {4, 13, 9, 5}, {7, 13, 1, 1}, true, {}),
      conv_case("1 × 1 of one sample", {1, 16, 8, 8}, {24, 16, 1, 1}, true, {}),
      conv_case("1 × 1 with stride in groups", {3, 8, 9, 9}, {12, 4, 1, 1}, true,
                {.stride = {2}, .groups = 2}),
      conv_case("patches", {3, 3, 32, 48}, {40, 3, 16, 16}, true, {.stride = {16}}),
      conv_case("windows that leave elements out", {2, 3, 17, 19}, {4, 3, 2, 2}, true,
                {.stride = {5, 3}}),
      conv_case("one dimension", {4, 5, 301}, {6, 5, 7}, true, {.padding = {3}}),
      conv_case("three dimensions", {2, 3, 7, 9, 8}, {4, 3, 3, 2, 3}, true,
                {.stride = {2, 1, 1}, .padding = {1, 0, 2}}),
      conv_case("depthwise 7 × 7", {5, 12, 33, 31}, {12, 1, 7, 7}, true,
                {.padding = {3}, .groups = 12}),
      conv_case("depthwise with stride, dilation, two outputs", {3, 6, 20, 17}, {12, 1, 3, 4}, true,
                {.stride = {2, 1}, .padding = {2}, .dilation = {1, 2}, .groups = 6}),
      conv_case("depthwise in one dimension", {3, 9, 130}, {9, 1, 4}, true,
                {.padding = {3}, .groups = 9}),
      conv_case("depthwise in three dimensions", {2, 4, 6, 5, 7}, {4, 1, 3, 3, 3}, false,
                {.padding = {1}, .groups = 4}),
      conv_case("no samples", {0, 3, 5, 5}, {2, 3, 3, 3}, true, {}),
      conv_case("no samples, depthwise", {0, 3, 5, 5}, {3, 1, 3, 3}, true, {.groups = 3}),
      conv_case("no channels", {2, 0, 5, 5}, {3, 0, 3, 3}, true, {}),
  };
}

std::vector<Case> window_cases() {
  const auto unfolded = [](const std::string& label, const Shape& x, const Shape& kernel,
                           const WindowOptions& options) {
    return make_case(label, {samples::normal(x)},
                     [=](const TensorList& in) { return unfold(in[0], kernel, options); });
  };
  return {unfolded("one dimension", {3, 4, 1000}, {5}, {.stride = {3}, .padding = {2}}),
          unfolded("two dimensions", {2, 3, 29, 31}, {3, 5},
                   {.stride = {2, 1}, .padding = {1, 4}, .dilation = {2, 3}}),
          unfolded("many taps, few positions", {1, 2, 64, 64}, {32, 31}, {.stride = {32, 33}}),
          unfolded("three dimensions", {2, 2, 7, 8, 9}, {2, 3, 2}, {.padding = {1}}),
          unfolded("four dimensions", {2, 2, 4, 3, 5, 4}, {2, 1, 3, 2},
                   {.stride = {1, 2, 1, 2}, .padding = {1, 0, 1, 0}}),
          make_case("fold", {samples::normal({2, 5 * 6, 8 * 9})}, [](const TensorList& in) {
            return fold(in[0], {10, 10}, {3, 2}, {});
          })};
}

std::vector<Case> pool_cases() {
  const auto maximum = [](const std::string& label, const Tensor& x, const Shape& kernel,
                          const MaxPoolOptions& options) {
    return make_case("max: " + label, {x},
                     [=](const TensorList& in) { return max_pool(in[0], kernel, options); });
  };
  const auto mean = [](const std::string& label, const Tensor& x, const Shape& kernel,
                       const AvgPoolOptions& options) {
    return make_case("mean: " + label, {x},
                     [=](const TensorList& in) { return avg_pool(in[0], kernel, options); });
  };
  const auto adaptive = [](const std::string& label, const Tensor& x, const Shape& size) {
    return Case{
        "adaptive: " + label, {x}, [=](const TensorList& in) {
          return TensorList{adaptive_avg_pool(in[0], size), adaptive_max_pool(in[0], size).y};
        }};
  };
  const Tensor images = samples::normal({3, 5, 29, 34});
  // Few values, so that most windows have several maxima.
  const Tensor ties = kernels::cast(samples::integers({2, 3, 17, 16}, 0, 3), DType::f64);
  return {maximum("3 × 3", images, {3}, {.stride = {2}, .padding = {1}}),
          maximum("overlapping ties", ties, {3, 4}, {.stride = {1}, .padding = {1, 2}}),
          maximum("dilation", images, {3, 2}, {.stride = {2, 3}, .dilation = {2, 3}}),
          maximum("one dimension", samples::normal({3, 2, 500}), {5}, {.stride = {3}}),
          maximum("four dimensions", samples::normal({2, 1, 4, 5, 3, 6}), {2}, {.stride = {1}}),
          maximum("no samples", samples::normal({0, 2, 4, 4}), {2}, {}),
          mean("3 × 3", images, {3}, {.stride = {2}, .padding = {1}}),
          mean("padding does not count", images, {4, 3},
               {.stride = {3, 2}, .padding = {2, 1}, .count_include_pad = false}),
          mean("three dimensions", samples::normal({2, 2, 6, 7, 8}), {2, 3, 2}, {}),
          adaptive("smaller", images, {7, 5}),
          adaptive("larger", images, {31, 50}),
          adaptive("one", images, {1})};
}

std::vector<Case> resize_cases() {
  const auto resized = [](const std::string& label, const Shape& size,
                          const InterpolateOptions& options) {
    return make_case(label, {samples::normal({2, 3, 37, 53})},
                     [=](const TensorList& in) { return interpolate(in[0], size, options); });
  };
  const auto cubic = Interpolation::bicubic;
  return {resized("nearest", {64, 30}, {.mode = Interpolation::nearest}),
          resized("bilinear", {80, 17}, {}),
          resized("bilinear, corners", {41, 99}, {.align_corners = true}),
          resized("bilinear, antialias", {11, 20}, {.antialias = true}),
          resized("bicubic", {50, 21}, {.mode = cubic}),
          resized("bicubic, antialias", {9, 70}, {.mode = cubic, .antialias = true}),
          make_case("reflected padding", {samples::normal({3, 4, 19, 21})},
                    [](const TensorList& in) {
                      return pad(in[0], {5, 20, 18, 1}, PadMode::reflect);
                    }),
          make_case("circular padding in front", {samples::normal({7, 300})},
                    [](const TensorList& in) {
                      return pad(in[0], {0, 0, 7, 3}, PadMode::circular);
                    }),
          make_case("zeros around a strided tensor", {samples::strided(samples::normal({5, 6, 7}))},
                    [](const TensorList& in) {
                      return pad(in[0], {3, -2, 1, 4});
                    }),
          make_case("roll", {samples::normal({5, 6, 7})}, [](const TensorList& in) {
            return roll(in[0], {3, -2}, {0, 2});
          })};
}

std::vector<Case> point_cases() {
  std::vector<Case> list;
  const Tensor x = samples::normal({3, 21, 13, 17});
  const Tensor grid = samples::uniform({3, 19, 23, 2}, -1.5, 1.5);
  for (const auto padding : {GridPadding::zeros, GridPadding::border, GridPadding::reflection}) {
    list.push_back(make_case(fmt::format("padding {}", static_cast<int>(padding)), {x, grid},
                             [padding](const TensorList& in) {
                               return grid_sample(in[0], in[1], {.padding = padding});
                             }));
  }
  list.push_back(make_case("plane_gather", {x, samples::integers({3, 21, 400}, -1, 13 * 17)},
                           [](const TensorList& in) { return plane_gather(in[0], in[1]); }));
  list.push_back(make_case("plane_gather, one index for all channels",
                           {x, samples::integers({3, 1, 300}, -1, 20)},
                           [](const TensorList& in) { return plane_gather(in[0], in[1]); }));
  list.push_back(make_case("plane_scatter into one element",
                           {samples::normal({2, 3, 257}), full({2, 1, 257}, 4, {DType::i64, {}})},
                           [](const TensorList& in) {
                             return plane_scatter(in[0], in[1], {2, 3});
                           }));
  return list;
}

std::vector<Case> fourier_cases() {
  std::vector<Case> list;
  for (const int64_t n : {1, 2, 3, 7, 16, 30, 97, 128, 1001, 4096}) {
    const std::string length = fmt::format("length {}", n);
    list.push_back(make_case("rfft, " + length, {samples::normal({5, n})},
                             [](const TensorList& in) { return rfft(in[0]); }));
    list.push_back(make_case("irfft, " + length, {samples::normal({5, n / 2 + 1, 2})},
                             [n](const TensorList& in) { return irfft(in[0], n); }));
    list.push_back(make_case("fft, " + length, {samples::normal({3, n, 2})},
                             [](const TensorList& in) { return fft(in[0]); }));
    list.push_back(make_case("ifft, " + length, {samples::normal({3, n, 2})},
                             [](const TensorList& in) { return ifft(in[0]); }));
  }
  list.push_back(make_case("rfft of a row that begins askew", {samples::normal({4, 5})},
                           [](const TensorList& in) { return rfft(select(in[0], 0, 1)); }));
  list.push_back(make_case("convolution",
                           {samples::normal({3, 4, 700}), samples::normal({4, 90}, 1)},
                           [](const TensorList& in) { return fft_convolve(in[0], in[1]); }));
  return list;
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("convolutions of many shapes agree with the CPU on CUDA") {
    check_cases("conv", conv_cases());
  }

  TEST_CASE("convolutions whose columns come in several chunks agree with the CPU on CUDA") {
    check_cases("conv in chunks",
                {conv_case("64 samples", {64, 64, 64, 65}, {3, 64, 3, 3}, true, {.padding = {1}})},
                {DType::f32, DType::bf16});
  }

  TEST_CASE("windows of up to four dimensions unfold and fold on CUDA") {
    check_cases("unfold", window_cases());
  }

  TEST_CASE("pooling with ties, padding, dilation and uneven bins agrees with the CPU on CUDA") {
    check_cases("pool", pool_cases());
  }

  TEST_CASE("the chosen elements of max pooling are those of the CPU, with ties and NaN") {
    if (!has_gpu()) return;
    Tensor x = kernels::cast(samples::integers({2, 2, 9, 10}, 0, 3), DType::f32);
    x.data<float>()[37] = NAN;
    x.data<float>()[38] = NAN;
    for (const Shape& kernel : {Shape{2, 3}, Shape{4, 1}}) {
      const MaxPoolOptions options{.stride = {1}, .padding = {1, 0}};
      const MaxPoolResult here = max_pool_with_index(x, kernel, options);
      const MaxPoolResult there = max_pool_with_index(kernels::to_device(x, kGpu), kernel, options);
      CHECK(same_bits(kernels::to_device(there.index, {}), here.index));
    }
  }

  TEST_CASE("resizing and padding agree with the CPU on CUDA") {
    check_cases("resize", resize_cases());
  }

  TEST_CASE("sampling at points, and its sums where points collide, agree with the CPU on CUDA") {
    check_cases("points", point_cases());
  }

  TEST_CASE("Fourier transforms of many lengths agree with the CPU on CUDA") {
    check_cases("fourier", fourier_cases());
  }

  TEST_CASE("a recorded graph of spatial ops repeats their bits") {
    if (!has_gpu()) return;
    if constexpr (kCuda) {
      const auto on_gpu = [](const Tensor& x) {
        return kernels::to_device(kernels::cast(x, DType::f32), kGpu).set_requires_grad();
      };
      const Tensor x = on_gpu(samples::normal({2, 4, 12, 15}));
      const Tensor w = on_gpu(samples::normal({6, 4, 3, 3}, 1));
      const Tensor grid = on_gpu(samples::uniform({2, 5, 6, 2}, -1, 1));
      TensorList results;
      const auto step = [&] {
        const Tensor y = max_pool(conv2d(x, w, {}, {.padding = {1}}), {2});
        const Tensor z = grid_sample(interpolate(y, {8, 9}), grid);
        const Tensor f = irfft(rfft(avg_pool(z, {2})));
        results = grad({f}, {x, w, grid}, {ones_like(f)});
        results.push_back(f.detach());
      };
      step();
      TensorList want;
      for (const Tensor& y : results) want.push_back(kernels::to_device(y, {}));
      const CapturedGraph graph(kGpu, step);
      graph.replay();
      for (size_t i = 0; i < want.size(); ++i) {
        CHECK(same_bits(kernels::to_device(results[i], {}), want[i]));
      }
    }
  }
}
