// Llama (Touvron et al. 2023) with grouped queries and the scalings of its rotary positions.
#include <algorithm>
#include <cmath>
#include <map>

#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"
#include "tessera/models/exchange/family.h"

namespace tessera {
namespace {

using Absent = SettingRule::Absent;

// Keys of scaled rotations: ours, theirs.
const std::map<std::string, ValueNames> kScalings = {
    {"linear", {{"factor", "factor"}}},
    {"llama3",
     {{"factor", "factor"},
      {"low", "low_freq_factor"},
      {"high", "high_freq_factor"},
      {"original_context", "original_max_position_embeddings"}}},
    {"yarn",
     {{"factor", "factor"},
      {"low", "beta_slow"},
      {"high", "beta_fast"},
      {"original_context", "original_max_position_embeddings"},
      {"amplitude", "attention_factor"}}}};

// What a "yarn" scaling leaves to defaults: those of transformers. Amplitude 0 is that of the
// factor.
void complete_yarn(Json& rope, const Json& theirs) {
  check(rope.value("truncate", true),
        "\"truncate\" of a yarn scaling is false; only true can be run");
  const auto number = [&](const char* key) {
    return rope.contains(key) && rope.at(key).is_number() ? rope.at(key).get<double>() : 0;
  };
  const double log_factor = std::log(std::max(number("factor"), 1.0));
  const double whole = number("mscale"), part = number("mscale_all_dim");
  const bool both = whole != 0 && part != 0;
  const Json defaults = {
      {"beta_slow", 1},
      {"beta_fast", 32},
      {"original_max_position_embeddings", theirs.value("max_position_embeddings", 2048)},
      {"attention_factor",
       both ? (0.1 * whole * log_factor + 1) / (0.1 * part * log_factor + 1) : 0.0}};
  for (const auto& [key, value] : defaults.items()) {
    if (!rope.contains(key) || rope.at(key).is_null()) rope[key] = value;
  }
}

// "rope_scaling", or "rope_parameters" of newer files, which have the base too.
void read_rotary(const Json& theirs, Json& ours) {
  Json& positions = ours["model"]["positions"];
  const char* key = theirs.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  Json rope = theirs.value(key, Json(nullptr));
  if (rope.is_null()) return;
  if (rope.contains("rope_theta")) positions["base"] = rope.at("rope_theta");
  const std::string type = rope.value("rope_type", rope.value("type", "default"));
  if (type == "default") return;
  const auto scaling = kScalings.find(type);
  check(scaling != kScalings.end(),
        "\"{}\" is of type \"{}\"; known are default, linear, llama3, yarn", key, type);
  if (type == "yarn") complete_yarn(rope, theirs);
  positions["scaling"] = type;
  for (const auto& [our_key, their_key] : scaling->second) {
    positions[our_key] = rope.at(their_key);
  }
}

void write_rotary(const Json& ours, Json& theirs) {
  const Json positions = ours.at("model").at("positions");
  theirs["rope_scaling"] = nullptr;
  const std::string type = positions.value("scaling", "none");
  if (type == "none") return;
  Json rope = {{"rope_type", type}};
  for (const auto& [our_key, their_key] : kScalings.at(type)) {
    rope[their_key] = positions.at(our_key);
  }
  if (rope.value("attention_factor", 1.0) == 0) rope.erase("attention_factor");
  theirs["rope_scaling"] = rope;
}

// Rows (or entries) of each head in the order 0, 2, 4, …, 1, 3, 5, …
Tensor split_pairs(const Tensor& x, int64_t head_dim) {
  const int64_t heads = x.size(0) / head_dim;
  const Tensor pairs =
      views::reshape(x, {heads, head_dim / 2, 2, x.numel() / std::max<int64_t>(x.size(0), 1)});
  return views::reshape(kernels::clone(views::transpose(pairs, 1, 2)), x.shape());
}

// A model whose rotary pairs are neighbours, as one with pairs (i, i + D/2).
NamedTensors to_halves(const ModelSpec& spec, const NamedTensors& ours) {
  const Json m = to_json(spec.model);
  if (!m.at("positions").value("interleaved", false)) return ours;
  const JoinedRows rows = joined_rows(spec);
  const int64_t head_dim = rows[0] / m.at("heads").get<int64_t>();
  NamedTensors result;
  for (const auto& [name, tensor] : ours) {
    result.emplace_back(name, tensor);
    if (name.find(".attention.qkv.") == std::string::npos) continue;
    const Tensor turned = kernels::clone(tensor);
    const Tensor part = views::slice(turned, 0, 0, rows[0] + rows[1]);
    kernels::copy(part, split_pairs(kernels::clone(part), head_dim));
    result.back().second = turned;
  }
  return result;
}

const RegisterFamily row{Family{
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .tensors =
        {.prefix = "model.",
         .rules = {{"embedding.weight", {"model.embed_tokens.weight"}},
                   {"blocks.{}.norm1.weight", {"model.layers.{}.input_layernorm.weight"}},
                   {"blocks.{}.attention.qkv.weight",
                    {"model.layers.{}.self_attn.q_proj.weight",
                     "model.layers.{}.self_attn.k_proj.weight",
                     "model.layers.{}.self_attn.v_proj.weight"}},
                   {"blocks.{}.attention.qkv.bias",
                    {"model.layers.{}.self_attn.q_proj.bias",
                     "model.layers.{}.self_attn.k_proj.bias",
                     "model.layers.{}.self_attn.v_proj.bias"}},
                   {"blocks.{}.attention.out.weight", {"model.layers.{}.self_attn.o_proj.weight"}},
                   {"blocks.{}.attention.out.bias", {"model.layers.{}.self_attn.o_proj.bias"}},
                   {"blocks.{}.norm2.weight", {"model.layers.{}.post_attention_layernorm.weight"}},
                   {"blocks.{}.feed_forward.gate.weight", {"model.layers.{}.mlp.gate_proj.weight"}},
                   {"blocks.{}.feed_forward.gate.bias", {"model.layers.{}.mlp.gate_proj.bias"}},
                   {"blocks.{}.feed_forward.up.weight", {"model.layers.{}.mlp.up_proj.weight"}},
                   {"blocks.{}.feed_forward.up.bias", {"model.layers.{}.mlp.up_proj.bias"}},
                   {"blocks.{}.feed_forward.down.weight", {"model.layers.{}.mlp.down_proj.weight"}},
                   {"blocks.{}.feed_forward.down.bias", {"model.layers.{}.mlp.down_proj.bias"}},
                   {"norm.weight", {"model.norm.weight"}},
                   {"lm_head.weight", {"lm_head.weight"}}},
         .ignored = {"model.layers.{}.self_attn.rotary_emb.inv_freq", "lm_head.weight"}},
    .base = {{"model",
              {{"type", "transformer"},
               {"attention", {{"type", "dense"}}},
               {"feed_forward", {{"type", "glu"}}},
               {"norm", "rms"},
               {"positions", {{"type", "rotary"}}},
               {"bias", false}}},
             {"data", Json::object()}},
    .fixed = Json::object(),
    .settings = {{"model.width", "hidden_size"},
                 {"model.depth", "num_hidden_layers"},
                 {"model.heads", "num_attention_heads"},
                 {"model.attention.kv_heads", "num_key_value_heads", Absent::keeps_default},
                 {"model.head_dim", "head_dim", Absent::keeps_default},
                 {"model.feed_forward.hidden", "intermediate_size"},
                 {"model.feed_forward.activation", "hidden_act", Absent::means, "silu",
                  &activation_value_names()},
                 {"model.norm_eps", "rms_norm_eps", Absent::means, 1e-6},
                 {"model.positions.base", "rope_theta", Absent::means, 10000.0},
                 {"model.attention.bias", "attention_bias", Absent::means, false},
                 {"model.bias", "mlp_bias", Absent::means, false},
                 {"model.tied", "tie_word_embeddings", Absent::means, false},
                 {"data.vocabulary", "vocab_size"},
                 {"data.context", "max_position_embeddings", Absent::means, 2048}},
    .read = read_rotary,
    .write = write_rotary,
    .reorder = to_halves}};

}  // namespace
}  // namespace tessera
