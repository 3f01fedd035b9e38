#include "tessera/models/conformance.h"

#include "tessera/attention/attention.h"
#include "tessera/attention/engines/dense.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/models/model.h"
#include "tessera/nn/check.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/gate.h"
#include "tessera/nn/positions.h"

namespace tessera {
namespace {

constexpr int64_t kWidth = 8;
constexpr int64_t kHeads = 2;
constexpr int64_t kTokens = 5;
constexpr int64_t kGrid = 4;
constexpr uint64_t kSeed = 11;

// A choice of `type` with its default config, keys of the same name replaced by small values.
template <class Interface>
Choice<Interface> tiny(const std::string& type) {
  const Json small = {{"width", kWidth}, {"embedding", 3}, {"depth", 2},
                      {"heads", kHeads}, {"patch", 2},     {"window", 3}};
  auto choice = from_json<Choice<Interface>>(Json{{"type", type}});
  Json json = to_json(choice);
  for (const auto& [key, value] : small.items()) {
    if (json.contains(key)) json[key] = value;
  }
  return from_json<Choice<Interface>>(json);
}

Tensor positions_on(Device device) {
  return arange(0, kTokens, 1, {DType::i64, device});
}

// Mechanisms that cannot do without a grid get one; others see a sequence, causally if they can.
ModuleSample attention_sample(const std::string& type) {
  const Entry& entry = find_entry(Attention::kKind, type, type);
  const bool grid = entry.unsupported(capability::kSequence).has_value();
  const bool causal = !entry.unsupported(capability::kCausal).has_value();
  const int64_t tokens = grid ? kGrid * kGrid : kTokens;
  return {
      Attention::kKind,
      type,
      [type, grid, tokens]() -> std::unique_ptr<Module> {
        Geometry g{.width = kWidth,
                   .heads = kHeads,
                   .context = tokens,
                   .init_std = 0.5,
                   .output_init_std = 0.5};
        if (grid) g.grid_height = g.grid_width = kGrid;
        auto attention = tiny<Attention>(type).build(g);
        attention->eval();
        return attention;
      },
      [causal, tokens](Module& m, const TensorList& in) {
        AttentionContext context{.causal = causal};
        context.positions = arange(0, static_cast<double>(tokens), 1, {DType::i64, in[0].device()});
        return TensorList{static_cast<Attention&>(m)(in[0], context)};
      },
      {samples::normal({2, tokens, kWidth})}};
}

ModuleSample feed_forward_sample(const std::string& type) {
  return {FeedForward::kKind,
          type,
          [type]() -> std::unique_ptr<Module> {
            return tiny<FeedForward>(type).build(
                FeedForwardGeometry{.width = kWidth, .init_std = 0.5, .output_init_std = 0.5});
          },
          [](Module& m, const TensorList& in) {
            return TensorList{static_cast<FeedForward&>(m)(in[0], {})};
          },
          {samples::normal({2, 3, kWidth})}};
}

ModuleSample gate_sample(const std::string& type) {
  return {Gate::kKind,
          type,
          [type]() -> std::unique_ptr<Module> {
            return tiny<Gate>(type).build(GateGeometry{.width = kWidth, .experts = 5, .k = 2});
          },
          [](Module& m, const TensorList& in) {
            return TensorList{static_cast<Gate&>(m)(in[0], {}, in[1]).weights, in[0]};
          },
          {samples::normal({6, kWidth}), samples::integers({6}, 0, 7)}};
}

ModuleSample positions_sample(const std::string& type) {
  return {Positions::kKind,
          type,
          [type]() -> std::unique_ptr<Module> {
            return tiny<Positions>(type).build(PositionGeometry{
                .width = kWidth, .context = kTokens, .heads = kHeads, .head_dim = kWidth / kHeads});
          },
          [](Module& m, const TensorList& in) {
            auto& p = static_cast<Positions&>(m);
            const Tensor at = positions_on(in[0].device());
            TensorList out = {p.embed(in[0], at), p.rotate(in[1], at)};
            const Score score = score_of(p, in[0].device());
            if (score.is_identity()) return out;
            out.push_back(dense_attention(in[1], in[1], in[1], {.score = score}).output);
            return out;
          },
          {samples::normal({2, kTokens, kWidth}),
           samples::normal({2, kHeads, kTokens, kWidth / kHeads}, 1)}};
}

ModuleSample model_sample(const std::string& type) {
  return {Model::kKind,
          type,
          [type]() -> std::unique_ptr<Module> {
            auto model = tiny<Model>(type).build(DataInfo{.vocabulary = 7,
                                                          .context = kTokens,
                                                          .channels = 2,
                                                          .height = 4,
                                                          .width = 4,
                                                          .classes = 3,
                                                          .users = 7,
                                                          .items = 7});
            model->eval();
            return model;
          },
          [](Module& m, const TensorList& in) {
            if (auto* lm = dynamic_cast<LanguageModel*>(&m)) return TensorList{lm->logits(in[0])};
            if (auto* vision = dynamic_cast<ImageClassifier*>(&m)) {
              return TensorList{vision->logits(in[1])};
            }
            if (auto* restoring = dynamic_cast<ImageReconstructor*>(&m)) {
              const int64_t side = 4 / restoring->patch();
              const Tensor hidden = expand(
                  arange(0, static_cast<double>(side * side), 1, {DType::i64, in[1].device()}),
                  {2, side * side});
              return TensorList{restoring->reconstruct(in[1], lt(hidden, 2))};
            }
            if (auto* recommender = dynamic_cast<Recommender*>(&m)) {
              const auto scores = recommender->scores(flatten(in[0]), flatten(flip(in[0], {1})));
              return TensorList{scores.watch, scores.rating};
            }
            fail("conformance: model \"{}\" offers no interface that is checked", m.type_name());
          },
          {samples::integers({2, kTokens}, 0, 7), samples::normal({2, 2, 4, 4})}};
}

template <class Interface>
void add_samples(std::vector<ModuleSample>& list, ModuleSample (*sample)(const std::string&)) {
  for (const std::string& name : registered_names(Interface::kKind)) list.push_back(sample(name));
}

}  // namespace

std::vector<ModuleSample> module_samples() {
  std::vector<ModuleSample> list;
  for (const LayerInfo* layer : LayerRegistry::instance().all()) {
    list.push_back({"layer", layer->name, layer->make, layer->run, layer->inputs()});
  }
  add_samples<FeedForward>(list, feed_forward_sample);
  add_samples<Gate>(list, gate_sample);
  add_samples<Positions>(list, positions_sample);
  add_samples<Attention>(list, attention_sample);
  add_samples<Model>(list, model_sample);
  for (ModuleSample& sample : list) {
    sample.make = [make = std::move(sample.make)] {
      RandomScope scope(kSeed);
      return make();
    };
  }
  return list;
}

std::vector<GradcheckRow> gradcheck_rows() {
  std::vector<GradcheckRow> rows;
  for (const OpInfo* op : OpRegistry::instance().all()) {
    rows.push_back({"op", op->name, [op] { return check_op(*op); }});
  }
  for (const ModuleSample& sample : module_samples()) {
    rows.push_back({sample.kind, sample.name, [sample] {
                      GradcheckOptions options;
                      if (sample.kind == Model::kKind) options.max_entries = 40;
                      RandomScope scope(kSeed);
                      const auto module = sample.make();
                      return check_module(*module, sample.run, sample.inputs, options);
                    }});
  }
  return rows;
}

}  // namespace tessera
