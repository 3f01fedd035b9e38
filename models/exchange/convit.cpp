// ConViT (d'Ascoli et al. 2021) in the names of timm, whose config.json has an "architecture",
// "num_classes", "model_args" where they differ from it, and a "pretrained_cfg".
#include "tessera/models/exchange/family.h"

namespace tessera {
namespace {

constexpr int64_t kHeadWidth = 48;

// Published sizes differ by the number of heads alone.
int64_t heads_of(const std::string& architecture) {
  if (architecture == "convit_tiny") return 4;
  if (architecture == "convit_small") return 9;
  check(architecture == "convit_base",
        "\"architecture\" is \"{}\"; known are convit_tiny, convit_small and convit_base",
        architecture);
  return 16;
}

void read_settings(const Json& theirs, Json& ours) {
  const Json arguments = theirs.value("model_args", Json::object());
  const int64_t heads =
      arguments.value("num_heads", heads_of(theirs.at("architecture").get<std::string>()));
  const int64_t width = arguments.value("embed_dim", kHeadWidth) * heads;
  const auto depth = arguments.value("depth", int64_t{12});
  const auto local = std::min(arguments.value("local_up_to_layer", int64_t{10}), depth);
  check(local > 0, "\"local_up_to_layer\" is {}; wants a layer before which there are local ones",
        local);
  const bool bias = arguments.value("qkv_bias", false);
  Json& model = ours["model"];
  model["heads"] = heads;
  model["width"] = width;
  model["depth"] = depth;
  model["patch"] = arguments.value("patch_size", 16);
  model["feed_forward"]["hidden"] =
      static_cast<int64_t>(arguments.value("mlp_ratio", 4.0) * static_cast<double>(width));
  model["class_token_layer"] = local;
  const Json dense = {{"type", "dense"}, {"qkv_bias", bias}};
  model["attention"] = {{"type", "gpsa"}, {"qkv_bias", bias}};
  if (local < depth) {
    Json last = Json::array();
    for (int64_t i = local; i < depth; ++i) last.push_back(i);
    model["layers"] = Json::array({{{"at", last}, {"attention", dense}}});
  }
  const Json size = theirs.value("pretrained_cfg", Json::object())
                        .value("input_size", Json::array({3, 224, 224}));
  Json& data = ours["data"];
  data["channels"] = arguments.value("in_chans", size.at(0).get<int64_t>());
  data["height"] = data["width"] = arguments.value("img_size", size.at(1).get<int64_t>());
  data["classes"] = theirs.value("num_classes", 1000);
}

// A ratio whose product with the width is cut to this many hidden units.
double ratio_of(int64_t hidden, int64_t width) {
  const auto units = static_cast<double>(hidden), size = static_cast<double>(width);
  const double ratio = units / size;
  return static_cast<int64_t>(ratio * size) == hidden ? ratio : (units + 0.5) / size;
}

// Whatever differs from the smallest published size stands in "model_args".
void write_settings(const Json& ours, Json& theirs) {
  const Json &model = ours.at("model"), &data = ours.at("data");
  const auto width = model.at("width").get<int64_t>(), heads = model.at("heads").get<int64_t>();
  const auto hidden = model.at("feed_forward").value("hidden", int64_t{0});
  const Json size = {data.at("channels"), data.at("height"), data.at("width")};
  theirs = {{"architecture", "convit_tiny"},
            {"num_classes", data.at("classes")},
            {"model_args",
             {{"img_size", data.at("height")},
              {"in_chans", data.at("channels")},
              {"patch_size", model.at("patch")},
              {"embed_dim", width / heads},
              {"num_heads", heads},
              {"depth", model.at("depth")},
              {"local_up_to_layer", model.at("class_token_layer")},
              {"mlp_ratio", ratio_of(hidden, width)},
              {"qkv_bias", model.at("attention").value("qkv_bias", false)}}},
            {"pretrained_cfg", {{"input_size", size}, {"num_classes", data.at("classes")}}}};
}

std::vector<TensorRule> tensor_rules() {
  std::vector<TensorRule> rules = {{"class_token", {"cls_token"}},
                                   {"positions", {"pos_embed"}},
                                   {"blocks.{}.attention.gate", {"blocks.{}.attn.gating_param"}}};
  const std::vector<std::pair<std::string, std::string>> layers = {
      {"patch_embedding", "patch_embed.proj"},
      {"blocks.{}.norm1", "blocks.{}.norm1"},
      {"blocks.{}.attention.qk", "blocks.{}.attn.qk"},
      {"blocks.{}.attention.value", "blocks.{}.attn.v"},
      {"blocks.{}.attention.position", "blocks.{}.attn.pos_proj"},
      {"blocks.{}.attention.qkv", "blocks.{}.attn.qkv"},
      {"blocks.{}.attention.out", "blocks.{}.attn.proj"},
      {"blocks.{}.norm2", "blocks.{}.norm2"},
      {"blocks.{}.feed_forward.up", "blocks.{}.mlp.fc1"},
      {"blocks.{}.feed_forward.down", "blocks.{}.mlp.fc2"},
      {"norm", "norm"},
      {"head", "head"}};
  for (const auto& [ours, theirs] : layers) {
    for (const char* kind : {".weight", ".bias"}) rules.push_back({ours + kind, {theirs + kind}});
  }
  return rules;
}

const RegisterFamily row{Family{.name = "convit",
                                .architecture = "",
                                .tensors = {.prefix = "", .rules = tensor_rules()},
                                .base = {{"model",
                                          {{"type", "vit"},
                                           {"feed_forward", {{"type", "mlp"}}},
                                           {"norm", "layer"},
                                           {"norm_eps", 1e-6},
                                           {"pool", "class"}}},
                                         {"data", Json::object()}},
                                .fixed = Json::object(),
                                .settings = {},
                                .read = read_settings,
                                .write = write_settings}};

}  // namespace
}  // namespace tessera
