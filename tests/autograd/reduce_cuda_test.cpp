// Reductions, scans and sorts on a CUDA device at the sizes where their kernels change, and where
// the order of equal entries and NaN counts.
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/scan.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

const Shape kShapes[] = {{1, 1},    {3, 2},      {5, 31},   {4, 32},   {4, 33},     {7, 129},
                         {3, 513},  {2100, 513}, {2, 2049}, {3, 5000}, {1, 70'001}, {20'000, 3},
                         {64, 600}, {1, 16'384}, {0, 4},    {700, 1}};

struct Function {
  const char* name;
  TensorFunction run;
};

// A function of the first input, which is differentiated, run along both dimensions of every shape.
void check_functions(const std::vector<Function>& functions, double low, double high,
                     std::initializer_list<DType> dtypes) {
  for (DType dtype : dtypes) {
    Failures failures(fmt::format("{}", dtype));
    for (const Shape& shape : kShapes) {
      const Tensor plain = samples::uniform(shape, low, high);
      for (const Tensor& x : {plain, views::transpose(plain, 0, 1)}) {
        for (const Function& f : functions) {
          const std::string label = fmt::format("{} of strides {}", x.shape(), x.strides());
          const auto run = [&](DType stored, Device device) {
            return evaluate(f.run, inputs_for({x}, dtype, stored, device, true), dtype);
          };
          attempt(failures, f.name, label, [&] {
            const Results got = run(dtype, kGpu);
            compare(failures, f.name, label, dtype, got, run(DType::f64, {}));
            compare_bits(failures, f.name, label, got, run(dtype, kGpu));
          });
        }
      }
    }
    failures.report();
  }
}

// Numbers with many equal ones, zeros of both signs, infinities and NaN.
Tensor with_ties(const Shape& shape, DType dtype) {
  const Tensor x = samples::integers(shape, -4, 5);
  const Tensor y = kernels::cast(x, DType::f64);
  double* values = y.data<double>();
  for (int64_t i = 0; i < y.numel(); ++i) {
    if (!is_floating(dtype)) continue;
    if (values[i] == 4 && i % 5 == 0) values[i] = NAN;
    if (values[i] == 4) values[i] = INFINITY;
    if (values[i] == -4) values[i] = -INFINITY;
    if (values[i] == 0 && i % 2 == 0) values[i] = -0.0;
  }
  return kernels::cast(y, dtype);
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("reductions of rows of every size agree with the CPU in f64, with gradients") {
    if (!has_gpu()) return;
    const std::vector<Function> functions = {
        {"mean", [](const TensorList& x) { return TensorList{mean(x[0], {1})}; }},
        {"var",
         [](const TensorList& x) {
           return TensorList{var(x[0], {1}), var(x[0], {})};
         }},
        {"stddev", [](const TensorList& x) { return TensorList{stddev(x[0], {1})}; }},
        {"logsumexp", [](const TensorList& x) { return TensorList{logsumexp(x[0], {1})}; }},
        {"norm", [](const TensorList& x) { return TensorList{norm(x[0], 2, {1})}; }},
        {"sum",
         [](const TensorList& x) {
           return TensorList{sum(x[0], {1}), sum(x[0])};
         }},
    };
    check_functions(functions, -2, 2, {DType::f64, DType::f32, DType::bf16});
  }

  TEST_CASE("scans of rows of every size agree with the CPU in f64, with gradients") {
    if (!has_gpu()) return;
    const std::vector<Function> functions = {
        {"cumsum", [](const TensorList& x) { return TensorList{cumsum(x[0], 1)}; }},
        {"cumsum from the end",
         [](const TensorList& x) {
           return TensorList{cumsum(x[0], 1, {true, true})};
         }},
        {"logcumsumexp", [](const TensorList& x) { return TensorList{logcumsumexp(x[0], 1)}; }},
        {"cummax", [](const TensorList& x) { return TensorList{cummax(x[0], 1).values}; }},
    };
    check_functions(functions, -2, 2, {DType::f64, DType::f32});
    check_functions({{"cumprod", [](const TensorList& x) { return TensorList{cumprod(x[0], 1)}; }}},
                    0.99, 1.01, {DType::f64, DType::f32});
  }

  TEST_CASE("a product with zeros in it has the gradients of the CPU") {
    if (!has_gpu()) return;
    Failures failures("zeros");
    const Tensor x = kernels::cast(samples::integers({40, 9}, -1, 3), DType::f64);
    const TensorFunction run = [](const TensorList& in) {
      return TensorList{cumprod(in[0], 1), prod(in[0], {1}), prod(in[0], {0})};
    };
    const auto on = [&](Device device) {
      return evaluate(run, inputs_for({x}, DType::f64, DType::f64, device, true), DType::f64);
    };
    compare(failures, "products", "(40, 9)", DType::f64, on(kGpu), on({}));
    failures.report();
  }

  TEST_CASE("indices of extrema, running maxima and sorts are the CPU's, with ties and NaN") {
    if (!has_gpu()) return;
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8}) {
      Failures failures(fmt::format("indices of {}", dtype));
      for (const Shape& shape : kShapes) {
        if (shape.numel() == 0 || shape.numel() > 100'000) continue;
        const Tensor plain = with_ties(shape, dtype);
        for (const Tensor& x : {plain, views::transpose(plain, 0, 1)}) {
          const std::string label = fmt::format("{} of strides {}", x.shape(), x.strides());
          const auto run = [&](Device device) {
            const Tensor y = placed(x, dtype, device);
            const int64_t n = y.size(1), k = std::min<int64_t>(n, 5);
            Results list;
            add_outputs(list, {argmax(y, 1), argmin(y, 1), max(y, 0).indices, min(y, 1).values,
                               cummax(y, 1).indices, argsort(y, 1), argsort(y, 1, true),
                               argsort(y, 0), topk(y, k, 1).values, topk(y, k, 1, false).indices,
                               kth_value(y, k, 1).indices, sort(y, 1).values});
            return list;
          };
          attempt(failures, "index", label,
                  [&] { compare(failures, "index", label, DType::f64, run(kGpu), run({})); });
        }
      }
      failures.report();
    }
  }

  TEST_CASE("rows of infinities and NaN reduce as on the CPU") {
    if (!has_gpu()) return;
    const double inf = INFINITY, nan = NAN;
    const Tensor x = tensor({-inf, -inf, -inf, inf, 0, -inf, inf, inf, 1, nan, 2, inf, 700, 710, 0},
                            {5, 3}, DType::f64);
    const TensorFunction run = [](const TensorList& in) {
      return TensorList{logsumexp(in[0], {1}), logsumexp(in[0], {0}), logcumsumexp(in[0], 1),
                        amax(in[0], {1}), count_nonzero(in[0], {1})};
    };
    const auto on = [&](DType stored, Device device) {
      Results list;
      add_outputs(list, run({placed(x, stored, device)}));
      return list;
    };
    Failures failures("infinities");
    for (DType dtype : {DType::f64, DType::f32}) {
      compare(failures, fmt::format("{}", dtype), "(5, 3)", dtype, on(dtype, kGpu),
              on(DType::f64, {}));
    }
    failures.report();
  }

  TEST_CASE("counting and one-hot codes on a device are the CPU's") {
    if (!has_gpu()) return;
    const Tensor ids = samples::integers({300, 7}, 0, 40), there = kernels::to_device(ids, kGpu);
    for (DType dtype : {DType::f32, DType::bf16, DType::i64, DType::boolean}) {
      CHECK(one_hot(there, 40, dtype).to_vector<double>() ==
            one_hot(ids, 40, dtype).to_vector<double>());
    }
    CHECK(bincount(there, 50).to_vector<int64_t>() == bincount(ids, 50).to_vector<int64_t>());
    const Unique a = unique(there), b = unique(ids);
    CHECK(a.values.to_vector<int64_t>() == b.values.to_vector<int64_t>());
    CHECK(a.inverse.to_vector<int64_t>() == b.inverse.to_vector<int64_t>());
    CHECK(a.counts.to_vector<int64_t>() == b.counts.to_vector<int64_t>());
  }
}
