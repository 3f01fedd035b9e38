// tessera data sample CONFIG [--count N] [--split test] [--out DIR]
// tessera data train-tokenizer TEXT --vocabulary N --out DIR [--pieces gpt2] [--special TOKEN …]
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "tessera/cli/command.h"
#include "tessera/cli/tokenize.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/view.h"
#include "tessera/data/bpe.h"
#include "tessera/data/gzip.h"
#include "tessera/data/image.h"
#include "tessera/data/tokenizer.h"
#include "tessera/data/utf8.h"
#include "tessera/train/config.h"

namespace tessera::cli {
namespace {
namespace fs = std::filesystem;

struct Options {
  std::string config;
  std::vector<std::string> set;
  std::string split = "test";
  std::string out = "samples";
  int64_t count = 5;
};

// Normalised pixels spread over [0, 1], so that any preprocessing gives a picture one can see.
Tensor visible(const Tensor& image) {
  std::vector<float> values = image.to_vector<float>();
  const auto [low, high] = std::minmax_element(values.begin(), values.end());
  const float floor = *low;
  const float range = std::max(*high - floor, 1e-12F);
  for (float& value : values) value = (value - floor) / range;
  return from_values(values, image.shape());
}

void write_images(const Batch& batch, const DataInfo& info, const fs::path& out) {
  const Tensor& images = batch.at("images");
  const auto labels = batch.at("labels").to_vector<int64_t>();
  for (int64_t i = 0; i < images.size(0); ++i) {
    const int64_t label = labels[static_cast<size_t>(i)];
    const std::string name = static_cast<size_t>(label) < info.class_names.size()
                                 ? info.class_names[static_cast<size_t>(label)]
                                 : std::to_string(label);
    const fs::path file = out / fmt::format("{}-{}.png", i, name);
    save_png(file, visible(views::select(images, 0, i)));
    fmt::print("{}\n", file.string());
  }
}

int run(const Options& o) {
  Json json = read_json(o.config);
  for (const std::string& assignment : o.set) set_by_path(json, assignment);
  const auto config = from_json<RunConfig>(json);
  const auto data = config.data.build(
      DataContext{fs::absolute(o.config).parent_path(), static_cast<uint64_t>(config.seed)});
  const Split split = split_from_name(o.split);
  const int64_t count = std::min(o.count, data->size(split));
  std::vector<int64_t> indices;
  for (int64_t i = 0; i < count; ++i) indices.push_back(i);
  const Batch batch = data->get(split, indices, static_cast<uint64_t>(config.seed));
  if (batch.contains("images")) {
    fs::create_directories(o.out);
    write_images(batch, data->info(), o.out);
    return 0;
  }
  check(batch.contains("tokens") && data->tokenizer() != nullptr,
        "data: {} has neither images nor text to show", o.config);
  for (int64_t i = 0; i < count; ++i) {
    Utf8Stream stream;
    const auto ids = views::select(batch.at("tokens"), 0, i).to_vector<int64_t>();
    fmt::print("{}\n---\n", stream.push(data->tokenizer()->decode(ids)) + stream.finish());
  }
  return 0;
}

struct TrainOptions {
  std::string text;
  std::string out;
  std::string pieces = "gpt2";
  std::vector<std::string> specials;
  int64_t vocabulary = 4096;
};

int train_tokenizer(const TrainOptions& o) {
  const std::string text = read_maybe_gzip(o.text);
  check(!text.empty(), "data: {} is empty: nothing to learn from", o.text);
  const BpeModel model = train_bpe(text, o.vocabulary, piece_rule_from_name(o.pieces), o.specials);
  write_bpe(model, o.out);
  const size_t tokens = BpeTokenizer(model).encode(text).size();
  fmt::print("{} tokens, {} merges, {:.2f} bytes per token: {}\n", model.tokens.size(),
             model.merges.size(), static_cast<double>(text.size()) / static_cast<double>(tokens),
             (fs::path(o.out) / "vocab.json").string());
  if (static_cast<int64_t>(model.tokens.size()) < o.vocabulary) {
    fmt::print("fewer than {}: no other pair occurs twice\n", o.vocabulary);
  }
  return 0;
}

void add_tokenizers(Command data) {
  auto o = std::make_shared<TrainOptions>();
  Command train = data.add_subcommand("train-tokenizer",
                                      "learn a byte-level vocabulary from a text, as GPT-2's");
  train.add_option("text", o->text, "a text file, .gz too").required();
  train.add_option("--out", o->out, "folder for vocab.json and merges.txt").required();
  train.add_option("--vocabulary", o->vocabulary, "tokens, the 256 bytes included (default: 4096)");
  train.add_option("--pieces", o->pieces,
                   "what merges do not cross: gpt2 (default), llama3, qwen2");
  train.add_option("--special", o->specials, "tokens that plain text never makes");
  train.callback([o] { set_exit_code(train_tokenizer(*o)); });
  add_tokenize(data);
}

void add(Command app) {
  Command data = app.add_subcommand("data", "look at data");
  data.require_subcommand();
  auto o = std::make_shared<Options>();
  Command command =
      data.add_subcommand("sample", "write images of a config's data as PNG, or print its text");
  command.add_option("config", o->config, "config file").required();
  command.add_option("--set", o->set, "change the config: --set data.seed=2").allow_extra_args();
  command.add_option("--split", o->split, "train, validation or test (default: test)");
  command.add_option("--count", o->count, "how many (default: 5)").range(1, 10000);
  command.add_option("--out", o->out, "folder for images (default: samples)");
  command.callback([o] { set_exit_code(run(*o)); });
  add_tokenizers(data);
}

const RegisterCommand row{"data", add};

}  // namespace
}  // namespace tessera::cli
