#include "tessera/nn/init.h"

#include <cmath>
#include <vector>

#include "tessera/core/create.h"
#include "tessera/core/random.h"

namespace tessera::init {
namespace {

int64_t fan_in_of(const Shape& shape) {
  return shape.numel() / std::max<int64_t>(1, shape[0]);
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

}  // namespace

Tensor normal(const Shape& shape, double stddev, double mean) {
  const Tensor x = empty(shape);
  kernels::normal(x, mean, stddev, RandomScope::next_key());
  return x;
}

Tensor truncated_normal(const Shape& shape, double stddev, double limit) {
  const Tensor x = empty(shape);
  kernels::truncated_normal(x, 0, stddev, -limit, limit, RandomScope::next_key());
  return x;
}

Tensor uniform(const Shape& shape, double bound) {
  const Tensor x = empty(shape);
  kernels::uniform(x, -bound, bound, RandomScope::next_key());
  return x;
}

Tensor constant(const Shape& shape, double value) {
  return full(shape, value);
}

Tensor xavier_uniform(const Shape& shape) {
  check(shape.rank() >= 2, "init: xavier_uniform wants (out, in, …), got {}", shape);
  const int64_t receptive = shape.numel() / (shape[0] * shape[1]);
  return uniform(shape, std::sqrt(6.0 / static_cast<double>((shape[0] + shape[1]) * receptive)));
}

Tensor kaiming_normal(const Shape& shape) {
  return normal(shape, std::sqrt(2.0 / static_cast<double>(fan_in_of(shape))));
}

Tensor fan_in_uniform(const Shape& shape, int64_t fan_in) {
  return uniform(shape, 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, fan_in))));
}

Tensor orthogonal(int64_t rows, int64_t columns, double gain) {
  // Gram–Schmidt, twice for accuracy, over the shorter side.
  const int64_t count = std::min(rows, columns);
  const int64_t length = std::max(rows, columns);
  Generator random(RandomScope::next_key().seed, RandomScope::next_key().stream);
  std::vector<std::vector<double>> basis;
  while (static_cast<int64_t>(basis.size()) < count) {
    std::vector<double> v(static_cast<size_t>(length));
    for (double& value : v) value = random.normal();
    for (int pass = 0; pass < 2; ++pass) {
      for (const auto& b : basis) {
        const double along = dot(v, b);
        for (size_t i = 0; i < v.size(); ++i) v[i] -= along * b[i];
      }
    }
    const double size = std::sqrt(dot(v, v));
    for (double& value : v) value /= size;
    basis.push_back(std::move(v));
  }
  const Tensor x = empty({rows, columns});
  float* data = x.data<float>();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      const auto& v = basis[static_cast<size_t>(rows <= columns ? r : c)];
      data[r * columns + c] =
          static_cast<float>(gain * v[static_cast<size_t>(rows <= columns ? c : r)]);
    }
  }
  return x;
}

}  // namespace tessera::init
