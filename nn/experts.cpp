#include "tessera/nn/experts.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/grouped_matmul.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"
#include "tessera/nn/init.h"

namespace tessera {
namespace {

// The map of one matrix of every expert: matrix and bias → (…, out).
template <class Product>
Tensor network(const Experts& e, const Product& product) {
  Tensor h = product(Tensor(), e.up, e.up_bias);
  if (e.gate.defined()) {
    h = e.phi(product(Tensor(), e.gate, e.gate_bias)) * h;
  } else {
    h = e.phi(h);
  }
  return product(h, e.down, e.down_bias);
}

}  // namespace

Experts::Experts(const ExpertsConfig& c, const FeedForwardGeometry& g, int64_t n)
    : phi(tessera::activation(c.activation)) {
  const int64_t hidden =
      c.hidden.value_or(std::max<int64_t>(1, std::llround(c.ratio * static_cast<double>(g.width))));
  const auto bias = [&](int64_t width) {
    return g.bias ? parameter(init::constant({n, width}, 0)) : Tensor();
  };
  if (c.expert == "glu") {
    gate = parameter(init::normal({n, g.width, hidden}, g.init_std));
    gate_bias = bias(hidden);
  }
  up = parameter(init::normal({n, g.width, hidden}, g.init_std));
  up_bias = bias(hidden);
  down = parameter(init::normal({n, hidden, g.width}, g.output_init_std));
  down_bias = bias(g.width);
}

Tensor Experts::rows(const Tensor& x, const Tensor& offsets) const {
  return network(*this, [&](const Tensor& h, const Tensor& w, const Tensor& b) {
    return grouped_matmul(h.defined() ? h : x, w, offsets, b);
  });
}

Tensor Experts::all(const Tensor& x) const {
  return network(*this, [&](const Tensor& h, const Tensor& w, const Tensor& b) {
    const Tensor y = matmul(h.defined() ? h : unsqueeze(x, 0), w);
    return b.defined() ? y + unsqueeze(b, 1) : y;
  });
}

void Experts::take(const Mlp& dense, const std::vector<std::vector<int64_t>>& neurons) {
  check(!gate.defined() && dense.up.weight.size(1) == up.size(1) && up_bias.defined() &&
            dense.up.bias.defined() && static_cast<int64_t>(neurons.size()) == count(),
        "experts: {} experts of the mlp form with biases and width {} were expected",
        neurons.size(), dense.up.weight.size(1));
  NoGrad off;
  for (int64_t e = 0; e < count(); ++e) {
    const auto& own = neurons[static_cast<size_t>(e)];
    const auto size = static_cast<int64_t>(own.size());
    check(size == up.size(2), "experts: an expert has {} neurons, not {}", up.size(2), size);
    const Tensor ids = from_values(own, {size}).to(up.device());
    const auto fill = [e](const Tensor& bank, const Tensor& values) {
      kernels::copy(views::select(bank, 0, e), values);
    };
    fill(up, transpose(index_select(dense.up.weight, 0, ids), 0, 1));
    fill(up_bias, index_select(dense.up.bias, 0, ids));
    fill(down, transpose(index_select(dense.down.weight, 1, ids), 0, 1));
    fill(down_bias, dense.down.bias);
  }
  for (const Tensor& t : {up, up_bias, down, down_bias}) t.bump_version();
}

std::vector<std::vector<int64_t>> deal_neurons(const std::vector<double>& importance,
                                               int64_t experts, int64_t shared, int64_t hidden) {
  std::vector<int64_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return importance[static_cast<size_t>(a)] > importance[static_cast<size_t>(b)];
  });
  std::vector<std::vector<int64_t>> dealt(static_cast<size_t>(experts));
  for (size_t r = 0; r < order.size(); ++r) {
    for (size_t e = 0; e < dealt.size(); ++e) {
      const bool takes = static_cast<int64_t>(r) < shared || r % dealt.size() == e;
      if (takes && static_cast<int64_t>(dealt[e].size()) < hidden) dealt[e].push_back(order[r]);
    }
  }
  for (const auto& own : dealt) {
    check(static_cast<int64_t>(own.size()) == hidden,
          "experts: {} neurons, {} of them shared, do not give {} experts {} each", order.size(),
          shared, experts, hidden);
  }
  return dealt;
}

}  // namespace tessera
