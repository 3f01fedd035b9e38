// Checkpoints of other programs: what is read computes what it did there, what is written comes
// back, what does not fit is named.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "../core/temporary_folder.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/random.h"
#include "tessera/core/safetensors.h"
#include "tessera/core/view.h"
#include "tessera/models/exchange/checkpoint.h"

using namespace tessera;
using tessera_tests::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

// A folder of the shared data, or "" with a message.
fs::path data(const std::string& name) {
  const char* root = std::getenv("TESSERA_DATA_DIR");
  if (root != nullptr && fs::exists(fs::path(root) / name)) return fs::path(root) / name;
  MESSAGE("no " << name << " in $TESSERA_DATA_DIR: skipped");
  return {};
}

ModelSpec spec_from(const char* text) {
  return from_json<ModelSpec>(parse_json(text, "spec"));
}

const char* kGpt2 = R"({"model": {"type": "transformer", "width": 12, "depth": 2, "heads": 3,
  "feed_forward": {"type": "mlp", "hidden": 20, "activation": "gelu_tanh"}},
  "data": {"vocabulary": 11, "context": 9}})";
const char* kLlama = R"({"model": {"type": "transformer", "width": 16, "depth": 2, "heads": 4,
  "attention": {"type": "dense", "kv_heads": 2}, "feed_forward": {"type": "glu", "hidden": 24},
  "norm": "rms", "bias": false, "tied": false,
  "positions": {"type": "rotary", "base": 500000, "scaling": "llama3", "factor": 8,
                "original_context": 4}},
  "data": {"vocabulary": 13, "context": 32}})";
const char* kVit = R"({"model": {"type": "vit", "patch": 2, "width": 8, "depth": 2, "heads": 2},
  "data": {"channels": 3, "height": 4, "width": 4, "classes": 3,
           "class_names": ["one", "two", "three"]}})";
const char* kDeit = R"({"model": {"type": "vit", "patch": 2, "width": 8, "depth": 2, "heads": 2,
  "distilled": true}, "data": {"channels": 1, "height": 4, "width": 4, "classes": 2}})";

// A model whose biases and gains are random too, so that nothing can be exchanged unseen.
std::unique_ptr<Model> random_model(const ModelSpec& spec) {
  RandomScope scope(5);
  auto model = spec.model.build(spec.data);
  uint64_t stream = 0;
  for (const auto& [name, tensor] : model->state()) {
    kernels::uniform(tensor, -0.5, 0.5, {77, stream++});
  }
  model->eval();
  return model;
}

std::unique_ptr<Model> model_of(const ForeignModel& foreign) {
  auto model = foreign.spec.model.build(foreign.spec.data);
  model->load_state(foreign.tensors);
  model->eval();
  return model;
}

std::vector<double> outputs(Model& model, const DataInfo& info) {
  NoGrad off;
  if (auto* lm = dynamic_cast<LanguageModel*>(&model)) {
    std::vector<int64_t> ids;
    for (int64_t i = 0; i < 8; ++i) ids.push_back((3 * i + 1) % info.vocabulary);
    return lm->logits(from_values(ids, {1, 8})).to_vector<double>();
  }
  const Tensor images = empty({2, info.channels, info.height, info.width});
  kernels::uniform(images, -1, 1, {3, 3});
  return dynamic_cast<ImageClassifier&>(model).logits(images).to_vector<double>();
}

void check_equal(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(std::isfinite(a[i]));
    CHECK(std::abs(a[i] - b[i]) <= tolerance);
  }
}

std::vector<double> last_logits(const ForeignModel& foreign, const std::vector<int64_t>& ids) {
  NoGrad off;
  const auto model = model_of(foreign);
  auto& lm = dynamic_cast<LanguageModel&>(*model);
  const auto count = static_cast<int64_t>(ids.size());
  return select(lm.logits(from_values(ids, {1, count})), 1, count - 1).to_vector<double>();
}

void write_text(const fs::path& file, const std::string& text) {
  write_file_atomic(file.string(), text);
}

// The state of a model by name.
std::map<std::string, Tensor> by_name(Model& model) {
  const NamedTensors state = model.state();
  return {state.begin(), state.end()};
}

Tensor swapped(const Tensor& x) {
  return kernels::clone(views::transpose(x, 0, 1));
}
Tensor rows(const Tensor& x, int64_t begin, int64_t end) {
  return kernels::clone(views::slice(x, 0, begin, end));
}

// The layout of GPT-2 checkpoints, written out by hand.
NamedTensors gpt2_tensors(Model& model) {
  auto t = by_name(model);
  NamedTensors out = {{"wte.weight", t["embedding.weight"]},
                      {"wpe.weight", t["positions.weight"]},
                      {"ln_f.weight", t["norm.weight"]},
                      {"ln_f.bias", t["norm.bias"]}};
  for (int i = 0; i < 2; ++i) {
    const std::string b = fmt::format("blocks.{}.", i), h = fmt::format("h.{}.", i);
    for (const std::string kind : {"weight", "bias"}) {
      const auto linear = [&](const Tensor& x) { return kind == "weight" ? swapped(x) : x; };
      out.emplace_back(h + "ln_1." + kind, t[b + "norm1." + kind]);
      out.emplace_back(h + "ln_2." + kind, t[b + "norm2." + kind]);
      out.emplace_back(h + "attn.c_attn." + kind, linear(t[b + "attention.qkv." + kind]));
      out.emplace_back(h + "attn.c_proj." + kind, linear(t[b + "attention.out." + kind]));
      out.emplace_back(h + "mlp.c_fc." + kind, linear(t[b + "feed_forward.up." + kind]));
      out.emplace_back(h + "mlp.c_proj." + kind, linear(t[b + "feed_forward.down." + kind]));
    }
    out.emplace_back(h + "attn.bias", zeros({1, 1, 9, 9}));
  }
  return out;
}

const char* kGpt2Config = R"({"model_type": "gpt2", "n_embd": 12, "n_layer": 2, "n_head": 3,
  "n_inner": 20, "n_positions": 9, "vocab_size": 11, "activation_function": "gelu_new"})";

void write_gpt2(const std::string& folder, const NamedTensors& tensors) {
  write_text(folder + "/config.json", kGpt2Config);
  write_safetensors(folder + "/model.safetensors", tensors);
}

}  // namespace

TEST_CASE("GPT-2 checkpoints written by hand give the logits of the model they come from") {
  const ModelSpec spec = spec_from(kGpt2);
  const auto model = random_model(spec);
  const NamedTensors tensors = gpt2_tensors(*model);
  TemporaryFolder folder;
  SUBCASE("names as they are") {
    write_gpt2(folder.path(), tensors);
  }
  SUBCASE("names with a prefix") {
    NamedTensors prefixed;
    for (const auto& [name, tensor] : tensors) prefixed.emplace_back("transformer." + name, tensor);
    write_gpt2(folder.path(), prefixed);
  }
  SUBCASE("in two files") {
    const auto half = tensors.begin() + 11;
    write_text(folder / "config.json", kGpt2Config);
    write_safetensors(folder / "a.safetensors", {tensors.begin(), half});
    write_safetensors(folder / "b.safetensors", {half, tensors.end()});
    Json index = {{"weight_map", Json::object()}};
    for (auto at = tensors.begin(); at != tensors.end(); ++at) {
      index["weight_map"][at->first] = at < half ? "a.safetensors" : "b.safetensors";
    }
    write_text(folder / "model.safetensors.index.json", index.dump());
  }
  const ForeignModel foreign = read_hugging_face(folder.path());
  check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 0);
}

TEST_CASE("halves are read as the numbers they hold") {
  const auto model = random_model(spec_from(kGpt2));
  for (const DType dtype : {DType::bf16, DType::f16}) {
    NamedTensors halves;
    for (const auto& [name, tensor] : gpt2_tensors(*model)) {
      halves.emplace_back(name, kernels::cast(tensor, dtype));
    }
    TemporaryFolder folder;
    write_gpt2(folder.path(), halves);
    const ForeignModel foreign = read_hugging_face(folder.path());
    const auto wanted = kernels::cast(by_name(*model)["embedding.weight"], dtype);
    CHECK(foreign.tensors[0].second.dtype() == DType::f32);
    CHECK(foreign.tensors[0].second.to_vector<double>() == wanted.to_vector<double>());
  }
}

TEST_CASE("Llama checkpoints written by hand give the logits of the model they come from") {
  const ModelSpec spec = spec_from(kLlama);
  const auto model = random_model(spec);
  auto t = by_name(*model);
  NamedTensors out = {{"model.embed_tokens.weight", t["embedding.weight"]},
                      {"model.norm.weight", t["norm.weight"]},
                      {"lm_head.weight", t["lm_head.weight"]}};
  for (int i = 0; i < 2; ++i) {
    const std::string b = fmt::format("blocks.{}.", i), l = fmt::format("model.layers.{}.", i);
    const Tensor qkv = t[b + "attention.qkv.weight"];
    out.emplace_back(l + "input_layernorm.weight", t[b + "norm1.weight"]);
    out.emplace_back(l + "post_attention_layernorm.weight", t[b + "norm2.weight"]);
    out.emplace_back(l + "self_attn.q_proj.weight", rows(qkv, 0, 16));
    out.emplace_back(l + "self_attn.k_proj.weight", rows(qkv, 16, 24));
    out.emplace_back(l + "self_attn.v_proj.weight", rows(qkv, 24, 32));
    out.emplace_back(l + "self_attn.o_proj.weight", t[b + "attention.out.weight"]);
    out.emplace_back(l + "mlp.gate_proj.weight", t[b + "feed_forward.gate.weight"]);
    out.emplace_back(l + "mlp.up_proj.weight", t[b + "feed_forward.up.weight"]);
    out.emplace_back(l + "mlp.down_proj.weight", t[b + "feed_forward.down.weight"]);
  }
  TemporaryFolder folder;
  write_text(folder / "config.json", R"({"model_type": "llama", "hidden_size": 16,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 24, "rms_norm_eps": 1e-5, "rope_theta": 500000, "vocab_size": 13,
    "max_position_embeddings": 32, "rope_scaling": {"rope_type": "llama3", "factor": 8,
    "low_freq_factor": 1, "high_freq_factor": 4, "original_max_position_embeddings": 4}})");
  write_safetensors(folder / "model.safetensors", out);
  const ForeignModel foreign = read_hugging_face(folder.path());
  check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 0);
}

TEST_CASE("ViT checkpoints written by hand give the logits of the model they come from") {
  const ModelSpec spec = spec_from(kVit);
  const auto model = random_model(spec);
  auto t = by_name(*model);
  NamedTensors out = {{"vit.embeddings.cls_token", t["class_token"]},
                      {"vit.embeddings.position_embeddings", t["positions"]}};
  for (const std::string kind : {"weight", "bias"}) {
    out.emplace_back("vit.embeddings.patch_embeddings.projection." + kind,
                     t["patch_embedding." + kind]);
    out.emplace_back("vit.layernorm." + kind, t["norm." + kind]);
    out.emplace_back("classifier." + kind, t["head." + kind]);
    for (int i = 0; i < 2; ++i) {
      const std::string b = fmt::format("blocks.{}.", i);
      const std::string l = fmt::format("vit.encoder.layer.{}.", i);
      const Tensor qkv = t[b + "attention.qkv." + kind];
      out.emplace_back(l + "layernorm_before." + kind, t[b + "norm1." + kind]);
      out.emplace_back(l + "layernorm_after." + kind, t[b + "norm2." + kind]);
      out.emplace_back(l + "attention.attention.query." + kind, rows(qkv, 0, 8));
      out.emplace_back(l + "attention.attention.key." + kind, rows(qkv, 8, 16));
      out.emplace_back(l + "attention.attention.value." + kind, rows(qkv, 16, 24));
      out.emplace_back(l + "attention.output.dense." + kind, t[b + "attention.out." + kind]);
      out.emplace_back(l + "intermediate.dense." + kind, t[b + "feed_forward.up." + kind]);
      out.emplace_back(l + "output.dense." + kind, t[b + "feed_forward.down." + kind]);
    }
  }
  TemporaryFolder folder;
  write_text(folder / "config.json", R"({"model_type": "vit", "hidden_size": 8,
    "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "patch_size": 2,
    "image_size": 4, "layer_norm_eps": 1e-6, "hidden_act": "gelu",
    "id2label": {"0": "one", "1": "two", "2": "three"}})");
  write_safetensors(folder / "model.safetensors", out);
  const ForeignModel foreign = read_hugging_face(folder.path());
  CHECK(foreign.spec.data.class_names == std::vector<std::string>{"one", "two", "three"});
  check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 0);
}

namespace {

// As in scripts/reference_convit.py.
Tensor noise(const Shape& shape, int64_t place) {
  std::vector<float> values;
  for (int64_t i = 0; i < shape.numel(); ++i) {
    const double x =
        std::sin(12.9898 * static_cast<double>(i) + 78.233 * static_cast<double>(place)) *
        43758.5453;
    values.push_back(static_cast<float>(x - std::floor(x) - 0.5));
  }
  return from_values(values, shape);
}

// The shapes of timm's ConViT with 4 heads of width 6 on 4 x 4 patches, 3 local layers of 4.
std::map<std::string, Shape> convit_shapes() {
  std::map<std::string, Shape> s = {
      {"cls_token", {1, 1, 24}},       {"pos_embed", {1, 16, 24}},
      {"norm.weight", {24}},           {"norm.bias", {24}},
      {"head.weight", {5, 24}},        {"head.bias", {5}},
      {"patch_embed.proj.bias", {24}}, {"patch_embed.proj.weight", {24, 3, 4, 4}}};
  for (int i = 0; i < 4; ++i) {
    const std::string b = fmt::format("blocks.{}.", i), a = b + "attn.";
    for (const char* name : {"norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
                             "mlp.fc2.bias", "attn.proj.bias"}) {
      s[b + name] = {24};
    }
    s[b + "mlp.fc1.weight"] = {48, 24};
    s[b + "mlp.fc1.bias"] = {48};
    s[b + "mlp.fc2.weight"] = {24, 48};
    s[a + "proj.weight"] = {24, 24};
    if (i == 3) {
      s[a + "qkv.weight"] = {72, 24};
      continue;
    }
    s[a + "qk.weight"] = {48, 24};
    s[a + "v.weight"] = {24, 24};
    s[a + "pos_proj.weight"] = {4, 3};
    s[a + "pos_proj.bias"] = {4};
    s[a + "gating_param"] = {4};
  }
  return s;
}

}  // namespace

TEST_CASE("a ConViT of timm gives the logits that it has there") {
  NamedTensors tensors;
  for (const auto& [name, shape] : convit_shapes()) {
    tensors.emplace_back(name, noise(shape, static_cast<int64_t>(tensors.size())));
  }
  TemporaryFolder folder;
  write_text(folder / "config.json", R"({"architecture": "convit_tiny", "num_classes": 5,
    "model_args": {"img_size": 16, "patch_size": 4, "embed_dim": 6, "num_heads": 4, "depth": 4,
    "local_up_to_layer": 3, "mlp_ratio": 2.0}, "pretrained_cfg": {"input_size": [3, 16, 16],
    "crop_pct": 0.8, "interpolation": "bicubic", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}})");
  write_safetensors(folder / "model.safetensors", tensors);
  const ForeignModel foreign = read_hugging_face(folder.path());
  REQUIRE(foreign.transforms.choices.size() == 3);
  CHECK(to_json(foreign.transforms.choices[0]).at("size") == 20);
  const auto model = model_of(foreign);
  NoGrad off;
  check_equal(dynamic_cast<ImageClassifier&>(*model)
                  .logits(noise({2, 3, 16, 16}, 1000))
                  .to_vector<double>(),
              {-0.735290, 0.057686, -0.894780, 0.214544, -0.684447, -0.821563, 0.137557, -0.898015,
               0.220675, -0.683528},
              1e-4);
}

TEST_CASE("a ConViT is written in the names and shapes of timm, and read again as it was") {
  for (const auto& [layers, hidden] : std::vector<std::pair<const char*, int>>{
           {R"([{"at": [3], "attention": "dense"}])", 48},
           {R"([{"at": [-1], "attention": {"type": "dense", "qkv_bias": true}}])", 31}}) {
    const Json json = {{"model",
                        {{"type", "vit"},
                         {"patch", 4},
                         {"width", 24},
                         {"depth", 4},
                         {"heads", 4},
                         {"attention", {{"type", "gpsa"}, {"qkv_bias", true}}},
                         {"feed_forward", {{"type", "mlp"}, {"hidden", hidden}}},
                         {"class_token_layer", 3},
                         {"layers", Json::parse(layers)}}},
                       {"data", {{"channels", 3}, {"height", 16}, {"width", 16}, {"classes", 5}}}};
    const ModelSpec spec = from_json<ModelSpec>(json);
    const auto model = random_model(spec);
    TemporaryFolder folder;
    write_hugging_face(folder / "out", spec, model->state(), {});
    const Json config = read_json(folder / "out/config.json");
    CHECK(config.at("architecture") == "convit_tiny");
    CHECK(config.at("model_args").at("local_up_to_layer") == 3);
    const auto file = SafetensorsFile::open(folder / "out/model.safetensors");
    for (const auto& tensor : convit_shapes()) {
      CAPTURE(tensor.first);
      if (tensor.first.find("mlp") != std::string::npos) continue;
      CHECK(file.get(tensor.first).shape() == tensor.second);
    }
    const ForeignModel foreign = read_hugging_face(folder / "out");
    check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 0);
  }
}

TEST_CASE("a model that is written and read again has the same weights bit for bit") {
  for (const char* text : {kGpt2, kLlama, kVit, kDeit}) {
    const ModelSpec spec = spec_from(text);
    const auto model = random_model(spec);
    TemporaryFolder folder;
    write_hugging_face(folder / "out", spec, model->state(), {});
    const ForeignModel foreign = read_hugging_face(folder / "out");
    const NamedTensors state = model->state();
    REQUIRE(foreign.tensors.size() == state.size());
    for (size_t i = 0; i < state.size(); ++i) {
      CAPTURE(state[i].first);
      CHECK(foreign.tensors[i].first == state[i].first);
      CHECK(foreign.tensors[i].second.to_vector<float>() == state[i].second.to_vector<float>());
    }
    check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 0);
  }
}

TEST_CASE("neighbouring rotary pairs are written as half-split ones with the same logits") {
  ModelSpec spec = spec_from(kLlama);
  Json json = to_json(spec.model);
  json["positions"]["interleaved"] = true;
  spec.model = from_json<Choice<Model>>(json);
  const auto model = random_model(spec);
  TemporaryFolder folder;
  write_hugging_face(folder / "out", spec, model->state(), {});
  const ForeignModel foreign = read_hugging_face(folder / "out");
  CHECK_FALSE(to_json(foreign.spec.model)["positions"]["interleaved"].get<bool>());
  check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 1e-4);
}

TEST_CASE("yarn scalings have the defaults of transformers and are written as they were read") {
  TemporaryFolder folder;
  const auto round_trip = [&](const char* name, const char* rope) {
    ModelSpec spec = spec_from(kLlama);
    Json json = to_json(spec.model);
    json["positions"] = Json::parse(rope);
    spec.model = from_json<Choice<Model>>(json);
    const auto model = random_model(spec);
    write_hugging_face(folder / name, spec, model->state(), {});
    const ForeignModel foreign = read_hugging_face(folder / name);
    check_equal(outputs(*model_of(foreign), spec.data), outputs(*model, spec.data), 0);
    return read_json(folder / name + "/config.json")["rope_scaling"];
  };
  const Json plain = round_trip("a", R"({"type": "rotary", "scaling": "yarn", "factor": 4,
      "low": 2, "high": 16, "original_context": 8})");
  CHECK(plain == Json::parse(R"({"rope_type": "yarn", "factor": 4.0, "beta_slow": 2.0,
      "beta_fast": 16.0, "original_max_position_embeddings": 8})"));
  const Json louder = round_trip("b", R"({"type": "rotary", "scaling": "yarn", "factor": 4,
      "high": 32, "original_context": 8, "amplitude": 1.25})");
  CHECK(louder["attention_factor"] == 1.25);
  Json config = read_json(folder / "b/config.json");
  config["rope_scaling"] = {{"type", "yarn"},
                            {"factor", 16},
                            {"mscale", 0.7},
                            {"mscale_all_dim", 1},
                            {"beta_fast", nullptr}};
  write_text(folder / "b/config.json", config.dump());
  const ForeignModel read = read_hugging_face(folder / "b");
  const Json positions = to_json(read.spec.model)["positions"];
  CHECK(positions["low"] == 1);
  CHECK(positions["high"] == 32);
  CHECK(positions["original_context"] == config["max_position_embeddings"]);
  CHECK(positions["amplitude"].get<double>() == doctest::Approx(0.9348779926));
}

TEST_CASE("what does not fit is named with its shapes") {
  const auto model = random_model(spec_from(kGpt2));
  NamedTensors tensors = gpt2_tensors(*model);
  TemporaryFolder folder;
  std::string expected;
  SUBCASE("missing") {
    std::erase_if(tensors, [](const auto& t) { return t.first == "h.1.ln_2.bias"; });
    expected = R"(tensor "transformer.h.1.ln_2.bias" of shape (12) is missing)";
  }
  SUBCASE("surplus") {
    tensors.emplace_back("h.2.ln_1.weight", zeros({12}));
    expected = R"(tensor "h.2.ln_1.weight" of shape (12) is not in the model)";
  }
  SUBCASE("wrong shape") {
    for (auto& [name, tensor] : tensors) {
      if (name == "h.0.mlp.c_fc.weight") tensor = swapped(tensor);
    }
    expected = R"(tensor "h.0.mlp.c_fc.weight" has shape (20, 12), the model wants (12, 20))";
  }
  SUBCASE("no numbers") {
    for (auto& [name, tensor] : tensors) {
      if (name == "ln_f.bias") tensor = zeros({12}, {DType::i64, {}});
    }
    expected = R"(tensor "ln_f.bias" holds i64)";
  }
  write_gpt2(folder.path(), tensors);
  CHECK_THROWS_WITH_AS(read_hugging_face(folder.path()), doctest::Contains(expected.c_str()),
                       Error);
}

TEST_CASE("configs that cannot be run are refused by their key") {
  TemporaryFolder folder;
  const auto refuse = [&](const char* config, const char* expected) {
    write_text(folder / "config.json", config);
    CHECK_THROWS_WITH_AS(read_hugging_face(folder.path()), doctest::Contains(expected), Error);
  };
  refuse(R"({"model_type": "bloom"})", R"("model_type" is "bloom"; known are)");
  refuse("[]", R"("model_type" is null)");
  refuse(R"({"model_type": "gpt2", "n_embd": 12})", R"("n_layer" is missing)");
  refuse(R"({"model_type": "gpt2", "scale_attn_weights": false})",
         R"("scale_attn_weights" is false; only true can be run)");
  refuse(R"({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 4,
    "rope_scaling": {"type": "longrope", "factor": 4}})",
         R"("rope_scaling" is of type "longrope")");
  refuse(R"({"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 4,
    "rope_scaling": {"type": "yarn", "factor": 4, "truncate": false}})",
         R"("truncate" of a yarn scaling is false)");
  refuse(R"({"model_type": "gpt2", "n_embd": "x", "n_layer": 1, "n_head": 1, "vocab_size": 3,
    "n_positions": 4})",
         "model.width");
}

TEST_CASE("a model that no family holds is not written, and the setting is named") {
  ModelSpec spec = spec_from(kGpt2);
  Json json = to_json(spec.model);
  json["positions"] = "alibi";
  spec.model = from_json<Choice<Model>>(json);
  CHECK_THROWS_WITH_AS(write_spec(spec), doctest::Contains("model.positions.type is \"alibi\""),
                       Error);
}

// The figures of scripts/reference_logits.py.
TEST_CASE("small GPT-2 checkpoints give the logits of the plain formulas") {
  const fs::path root = data("safetensors_small");
  if (root.empty()) return;
  const auto first = [](std::vector<double> v) { return std::vector(v.begin(), v.begin() + 8); };
  check_equal(first(last_logits(read_hugging_face(root / "tiny_gpt2_micro"), {47, 35, 32, 71, 30})),
              {0.118915, -0.083741, 0.077646, 0.091146, 0.170045, 0.100033, -0.042268, 0.086817},
              1e-5);
  check_equal(
      first(last_logits(read_hugging_face(root / "tiny_gpt2_vocab50257"), {1169, 3797, 3332})),
      {-0.002888, 0.098034, -0.127137, -0.095221, 0.022845, -0.073356, -0.020534, -0.085530}, 1e-5);
}

TEST_CASE("a llama2.c file gives the logits of the plain formulas") {
  const fs::path root = data("llama2c_stories260k");
  if (root.empty()) return;
  const ForeignModel foreign = read_llama2c(root / "stories260K.bin");
  const auto part = [](std::vector<double> v) {
    return std::vector(v.begin() + 259, v.begin() + 267);
  };
  check_equal(
      part(last_logits(foreign, {1})),
      {-1.422488, -9.551858, -2.537832, -1.838722, -1.286701, 6.298345, -1.441336, -2.307646},
      1e-4);
  const std::vector<int64_t> tokens = {1,   461, 461, 401, 401, 401, 461, 378, 455, 473, 456,
                                       435, 299, 362, 409, 283, 264, 283, 452, 288, 13,  431,
                                       431, 431, 431, 431, 431, 431, 431, 431, 431, 431, 431,
                                       431, 293, 430, 417, 363, 416, 315, 342};
  check_equal(part(last_logits(foreign, tokens)),
              {0.720651, -1.371648, 0.616727, 3.354261, 4.193416, 5.846607, 1.859643, 2.845519},
              1e-3);
}

// In the shared file every matrix of a layer is transposed five times over as if it had its first
// shape each time (see scripts/stories260k.py); this puts the numbers back.
void put_back(const Tensor& matrix, int64_t rows, int64_t columns) {
  float* values = matrix.data<float>();
  std::vector<float> old(static_cast<size_t>(rows * columns));
  for (int times = 0; times < 5; ++times) {
    std::copy_n(values, old.size(), old.begin());
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        values[j * rows + i] = old[static_cast<size_t>(i * columns + j)];
      }
    }
  }
}

// The ids that the restored model finds from 1 on, each the most probable by the plain formulas of
// scripts/reference_logits.py; scripts/stories260k.py has them in words.
const std::vector<int64_t> kStory = {
    1,   403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396,
    267, 337, 410, 408, 419, 292, 411, 322, 265, 282, 295, 433, 426, 385, 328, 432, 358, 394, 261,
    370, 432, 352, 266, 268, 388, 426, 338, 391, 266, 267, 337, 335, 312, 432, 398, 312, 286, 267,
    414, 270, 333, 415, 426, 13,  438, 310, 439, 419, 357, 336, 432, 313, 438, 310, 432, 278, 316,
    439, 419, 298, 414, 267, 265, 282, 295, 433, 426, 436, 317, 286, 296, 418, 269, 279, 292, 416,
    439, 413, 409, 416, 327, 263, 415, 294, 267, 400, 426, 338, 336, 432, 313, 442, 391, 267, 337,
    335, 364, 420, 268, 388, 432, 398, 359, 280, 303, 439, 413, 272, 417, 264, 312, 426, 436, 13,
    438, 310, 286, 296, 418, 269, 279, 292, 416, 439, 413, 409, 416, 327, 263, 415, 294, 267, 400,
    426, 338, 336, 432, 313, 442, 439, 423, 262, 304, 420, 422, 432, 317, 426, 359, 279, 292, 416,
    439, 413, 409, 416, 327, 263, 415, 294, 267, 400, 426, 436, 13,  438, 310, 279, 292, 416, 439,
    413, 391, 267, 281, 421, 427, 311, 357, 432, 384, 358, 336, 432, 313, 442, 439, 423, 262, 304,
    420, 422, 432, 357, 426, 359, 279, 292, 416, 439, 413, 409, 416, 327, 263, 415, 294, 267, 400,
    426, 436, 320, 285, 357, 336, 432, 313, 455, 289, 439, 413, 263, 304, 420, 422, 432, 317, 426,
    410, 448, 411, 280, 303, 281, 421, 427, 364, 426};

TEST_CASE("the stories model writes the story that llama2.c prints for it") {
  const fs::path root = data("llama2c_stories260k");
  if (root.empty()) return;
  ForeignModel foreign = read_llama2c(root / "stories260K.bin");
  for (auto& [name, tensor] : foreign.tensors) {
    if (!name.starts_with("blocks.") || tensor.rank() != 2) continue;
    if (name.find(".qkv.") == std::string::npos) {
      put_back(tensor, tensor.size(0), tensor.size(1));
      continue;
    }
    put_back(views::slice(tensor, 0, 0, 64), 64, 64);
    put_back(views::slice(tensor, 0, 64, 96), 32, 64);
    put_back(views::slice(tensor, 0, 96, 128), 32, 64);
  }
  const auto model = model_of(foreign);
  NoGrad off;
  const auto count = static_cast<int64_t>(kStory.size());
  const auto logits = dynamic_cast<LanguageModel&>(*model)
                          .logits(from_values(kStory, {1, count}))
                          .to_vector<double>();
  double loss = 0;
  for (size_t i = 0; i + 1 < kStory.size(); ++i) {
    const auto row = logits.begin() + static_cast<ptrdiff_t>(512 * i);
    CHECK(std::max_element(row, row + 512) - row == kStory[i + 1]);
    double sum = 0;
    for (int64_t v = 0; v < 512; ++v) sum += std::exp(row[v]);
    loss += std::log(sum) - row[kStory[i + 1]];
  }
  CHECK(loss / static_cast<double>(count - 1) == doctest::Approx(0.45735).epsilon(1e-3));
}

TEST_CASE("a llama2.c file that is cut short or too long says so") {
  const fs::path root = data("llama2c_stories260k");
  if (root.empty()) return;
  const std::string whole = read_file((root / "stories260K.bin").string());
  TemporaryFolder folder;
  const auto refuse = [&](const std::string& bytes, const char* expected) {
    write_text(folder / "x.bin", bytes);
    CHECK_THROWS_WITH_AS(read_llama2c(folder / "x.bin"), doctest::Contains(expected), Error);
  };
  refuse(whole.substr(0, 20), "too few for the header");
  refuse(whole.substr(0, 500000), "cut short: a tensor of shape");
  refuse(whole.substr(0, whole.size() - 4), "its sizes ask for");
  refuse(whole + "1234", "its sizes ask for");
  refuse(std::string(100, 'a'), "not a llama2.c file");
}
