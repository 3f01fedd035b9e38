// ViT (Dosovitskiy et al. 2021) and the distilled DeiT (Touvron et al. 2021), which differ by a
// token, a head and a prefix.
#include <map>

#include "tessera/models/exchange/family.h"

namespace tessera {
namespace {

using Absent = SettingRule::Absent;

// Their "id2label" is an object from numbers as text to names.
void read_classes(const Json& theirs, Json& ours) {
  Json& data = ours["data"];
  data["width"] = data["height"];
  const Json labels = theirs.value("id2label", Json(nullptr));
  if (!labels.is_object()) {
    data["classes"] = theirs.value("num_labels", 2);
    return;
  }
  std::vector<std::string> names(labels.size());
  for (const auto& [id, name] : labels.items()) {
    const auto at = static_cast<size_t>(std::strtoul(id.c_str(), nullptr, 10));
    check(at < names.size() && std::to_string(at) == id,
          "\"id2label\" has \"{}\"; wants 0 to {}, each once", id, names.size() - 1);
    names[at] = name.get<std::string>();
  }
  data["classes"] = names.size();
  data["class_names"] = names;
}

void write_classes(const Json& ours, Json& theirs) {
  const Json& data = ours.at("data");
  Json ids = Json::object(), labels = Json::object();
  for (int64_t i = 0; i < data.at("classes").get<int64_t>(); ++i) {
    const auto at = static_cast<size_t>(i);
    const std::string name = at < data.at("class_names").size()
                                 ? data.at("class_names")[at].get<std::string>()
                                 : "LABEL_" + std::to_string(i);
    ids[std::to_string(i)] = name;
    labels[name] = i;
  }
  theirs["id2label"] = ids;
  theirs["label2id"] = labels;
}

// What both have, below a prefix.
std::vector<TensorRule> backbone(const std::string& prefix) {
  const std::string e = prefix + "embeddings.", l = prefix + "encoder.layer.{}.";
  const std::string heads = l + "attention.attention.";
  std::vector<TensorRule> rules = {{"class_token", {e + "cls_token"}},
                                   {"distillation_token", {e + "distillation_token"}},
                                   {"positions", {e + "position_embeddings"}}};
  for (const std::string kind : {"weight", "bias"}) {
    const std::vector<TensorRule> pair = {
        {"patch_embedding." + kind, {e + "patch_embeddings.projection." + kind}},
        {"blocks.{}.norm1." + kind, {l + "layernorm_before." + kind}},
        {"blocks.{}.attention.qkv." + kind,
         {heads + "query." + kind, heads + "key." + kind, heads + "value." + kind}},
        {"blocks.{}.attention.out." + kind, {l + "attention.output.dense." + kind}},
        {"blocks.{}.norm2." + kind, {l + "layernorm_after." + kind}},
        {"blocks.{}.feed_forward.up." + kind, {l + "intermediate.dense." + kind}},
        {"blocks.{}.feed_forward.down." + kind, {l + "output.dense." + kind}},
        {"norm." + kind, {prefix + "layernorm." + kind}}};
    rules.insert(rules.end(), pair.begin(), pair.end());
  }
  return rules;
}

Family family(const std::string& name, const std::string& architecture, bool distilled,
              std::vector<TensorRule> heads) {
  const std::string prefix = name + ".";
  std::vector<TensorRule> rules = backbone(prefix);
  rules.insert(rules.end(), heads.begin(), heads.end());
  return {.name = name,
          .architecture = architecture,
          .tensors = {.prefix = prefix,
                      .rules = std::move(rules),
                      .ignored = {prefix + "pooler.dense.weight", prefix + "pooler.dense.bias"}},
          .base = {{"model",
                    {{"type", "vit"},
                     {"attention", {{"type", "dense"}}},
                     {"feed_forward", {{"type", "mlp"}}},
                     {"norm", "layer"},
                     {"pool", "class"},
                     {"distilled", distilled}}},
                   {"data", Json::object()}},
          .fixed = {{"qkv_bias", true}},
          .settings = {{"model.width", "hidden_size"},
                       {"model.depth", "num_hidden_layers"},
                       {"model.heads", "num_attention_heads"},
                       {"model.feed_forward.hidden", "intermediate_size"},
                       {"model.feed_forward.activation", "hidden_act", Absent::means, "gelu",
                        &activation_value_names()},
                       {"model.norm_eps", "layer_norm_eps", Absent::means, 1e-12},
                       {"model.patch", "patch_size"},
                       {"data.height", "image_size"},
                       {"data.channels", "num_channels", Absent::means, 3}},
          .read = read_classes,
          .write = write_classes};
}

const RegisterFamily vit{
    family("vit", "ViTForImageClassification", false,
           {{"head.weight", {"classifier.weight"}}, {"head.bias", {"classifier.bias"}}})};
const RegisterFamily deit{family("deit", "DeiTForImageClassificationWithTeacher", true,
                                 {{"head.weight", {"cls_classifier.weight"}},
                                  {"head.bias", {"cls_classifier.bias"}},
                                  {"distillation_head.weight", {"distillation_classifier.weight"}},
                                  {"distillation_head.bias", {"distillation_classifier.bias"}}})};

}  // namespace
}  // namespace tessera
