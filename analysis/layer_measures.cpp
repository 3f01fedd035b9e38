#include "tessera/analysis/layer_measures.h"

#include "tessera/analysis/coding_rate.h"
#include "tessera/analysis/picture.h"
#include "tessera/attention/heads.h"
#include "tessera/attention/mssa.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/reduce.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/random.h"
#include "tessera/models/block.h"

namespace tessera {
namespace {

struct ModelChoice {
  Choice<Model> model;
  TESSERA_FIELDS(f)
  { f("model", model, "what learns"); }
};

// What one block showed.
struct Shown {
  Tensor input, subspaces, projected, middle, codes;
};

Shown shown_by(const std::string& block, const std::vector<std::pair<std::string, Tensor>>& seen) {
  const auto find = [&](const std::string& name) {
    for (const auto& [path, value] : seen) {
      if (path == block + "." + name) return value;
    }
    return Tensor();
  };
  return {find("attention.input"), find("attention.subspaces"), find("attention.projected"),
          find("middle"), find("feed_forward.codes")};
}

Tensor subspaces_of(Block& block, const MssaAttention& mssa, const Tensor& stream, int64_t heads) {
  return split_heads(mssa.in(block.norm1(stream)), heads);
}

double cosine(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(DType::f64), y = b.to(DType::f64);
  return sum(x * y).item() / (norm(x).item() * norm(y).item());
}

double step_cosine(const Shown& s, const MssaAttention& mssa) {
  const int64_t heads = s.subspaces.size(1), tokens = s.input.size(1);
  const double a = static_cast<double>(s.subspaces.size(3)) / static_cast<double>(tokens);
  double total = 0;
  for (int64_t b = 0; b < s.input.size(0); ++b) {
    const Tensor x = select(s.input, 0, b);
    const Tensor exact = coding_rate_gradient(x, mssa.in.weight, heads, a);
    total += cosine(select(s.projected, 0, b) - x, -exact);
  }
  return total / static_cast<double>(s.input.size(0));
}

}  // namespace

std::vector<LayerMeasures> measure_layers(Model& model, const Tensor& input) {
  NoGrad off;
  const auto seen =
      observe(model, input, {".input", ".subspaces", ".projected", ".middle", ".codes"});
  std::vector<LayerMeasures> all;
  for (const auto& [path, block] : modules_of<Block>(model)) {
    const auto* mssa = dynamic_cast<MssaAttention*>(block->attention.get());
    const Shown s = shown_by(path, seen);
    if (mssa == nullptr || !s.middle.defined() || !s.codes.defined()) continue;
    const Tensor rates = subspace_coding_rate(s.subspaces);
    const Tensor after = subspaces_of(*block, *mssa, s.middle, s.subspaces.size(1));
    all.push_back({.rate = mean(rates).item(),
                   .rate_deviation = stddev(rates).item(),
                   .rate_after = mean(subspace_coding_rate(after)).item(),
                   .nonzeros = nonzero_share(s.codes),
                   .step_cosine = step_cosine(s, *mssa)});
  }
  check(!all.empty(), "measure: {} has no blocks of mssa and ista", model.type_name());
  return all;
}

std::unique_ptr<Model> untrained(const Json& config, const DataInfo& info) {
  Json only;
  only["model"] = config.at("model");
  const RandomScope scope(static_cast<uint64_t>(config.value("seed", int64_t{1})));
  auto model = from_json<ModelChoice>(only).model.build(info);
  model->eval();
  return model;
}

}  // namespace tessera
