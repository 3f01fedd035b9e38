#include "tessera/models/conformance.h"

#include "tessera/attention/attention.h"
#include "tessera/config/fields.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/random.h"
#include "tessera/models/model.h"
#include "tessera/nn/check.h"
#include "tessera/nn/feed_forward.h"
#include "tessera/nn/positions.h"

namespace tessera {
namespace {

constexpr int64_t kWidth = 8;
constexpr int64_t kHeads = 2;
constexpr int64_t kTokens = 5;
constexpr uint64_t kSeed = 11;

// A choice of `type` with its default config, keys of the same name replaced by small values.
template <class Interface>
Choice<Interface> tiny(const std::string& type) {
  const Json small = {{"width", kWidth}, {"depth", 2}, {"heads", kHeads}, {"patch", 2}};
  auto choice = from_json<Choice<Interface>>(Json{{"type", type}});
  Json json = to_json(choice);
  for (const auto& [key, value] : small.items()) {
    if (json.contains(key)) json[key] = value;
  }
  return from_json<Choice<Interface>>(json);
}

GradcheckResult check_attention(const std::string& type) {
  RandomScope scope(kSeed);
  auto layer = tiny<Attention>(type).build(Geometry{.width = kWidth,
                                                    .heads = kHeads,
                                                    .context = kTokens,
                                                    .init_std = 0.5,
                                                    .output_init_std = 0.5});
  const ModuleFunction run = [](Module& m, const TensorList& in) {
    AttentionContext context{.causal = true};
    context.positions = arange(0, kTokens);
    return TensorList{static_cast<Attention&>(m)(in[0], context)};
  };
  return check_module(*layer, run, {samples::normal({2, kTokens, kWidth})});
}

GradcheckResult check_feed_forward(const std::string& type) {
  RandomScope scope(kSeed);
  auto layer = tiny<FeedForward>(type).build(
      FeedForwardGeometry{.width = kWidth, .init_std = 0.5, .output_init_std = 0.5});
  const ModuleFunction run = [](Module& m, const TensorList& in) {
    return TensorList{static_cast<FeedForward&>(m)(in[0])};
  };
  return check_module(*layer, run, {samples::normal({2, 3, kWidth})});
}

GradcheckResult check_positions(const std::string& type) {
  RandomScope scope(kSeed);
  auto layer = tiny<Positions>(type).build(PositionGeometry{
      .width = kWidth, .context = kTokens, .heads = kHeads, .head_dim = kWidth / kHeads});
  const ModuleFunction run = [](Module& m, const TensorList& in) {
    auto& p = static_cast<Positions&>(m);
    const Tensor at = arange(0, kTokens);
    TensorList out = {p.embed(in[0], at), p.rotate(in[1], at)};
    const Tensor bias = p.score_bias(at, at);
    if (bias.defined()) out.push_back(bias);
    return out;
  };
  return check_module(*layer, run,
                      {samples::normal({2, kTokens, kWidth}),
                       samples::normal({2, kHeads, kTokens, kWidth / kHeads}, 1)});
}

GradcheckResult check_model(const std::string& type) {
  RandomScope scope(kSeed);
  auto model = tiny<Model>(type).build(DataInfo{
      .vocabulary = 7, .context = kTokens, .channels = 2, .height = 4, .width = 4, .classes = 3});
  model->eval();
  const ModuleFunction run = [](Module& m, const TensorList& in) {
    if (auto* lm = dynamic_cast<LanguageModel*>(&m)) return TensorList{lm->logits(in[0])};
    if (auto* vision = dynamic_cast<ImageClassifier*>(&m)) return TensorList{vision->logits(in[1])};
    fail("gradcheck: model \"{}\" offers no interface that is checked", m.type_name());
  };
  GradcheckOptions options;
  options.max_entries = 40;
  return check_module(
      *model, run, {samples::integers({2, kTokens}, 0, 7), samples::normal({2, 2, 4, 4})}, options);
}

template <class Interface>
void add_rows(std::vector<GradcheckRow>& rows, GradcheckResult (*check)(const std::string&)) {
  for (const std::string& name : registered_names(Interface::kKind)) {
    rows.push_back({Interface::kKind, name, [check, name] { return check(name); }});
  }
}

}  // namespace

std::vector<GradcheckRow> gradcheck_rows() {
  std::vector<GradcheckRow> rows;
  for (const OpInfo* op : OpRegistry::instance().all()) {
    rows.push_back({"op", op->name, [op] { return check_op(*op); }});
  }
  for (const LayerInfo* layer : LayerRegistry::instance().all()) {
    rows.push_back({"layer", layer->name, [layer] {
                      RandomScope scope(kSeed);
                      const auto module = layer->make();
                      return check_module(*module, layer->run, layer->inputs());
                    }});
  }
  add_rows<FeedForward>(rows, check_feed_forward);
  add_rows<Positions>(rows, check_positions);
  add_rows<Attention>(rows, check_attention);
  add_rows<Model>(rows, check_model);
  return rows;
}

}  // namespace tessera
