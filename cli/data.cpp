// tessera data sample CONFIG [--count N] [--split test] [--out DIR]
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "tessera/cli/command.h"
#include "tessera/config/json.h"
#include "tessera/core/create.h"
#include "tessera/core/view.h"
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

void add(CLI::App& app) {
  auto* data = app.add_subcommand("data", "look at data");
  data->require_subcommand(1);
  auto o = std::make_shared<Options>();
  auto* command =
      data->add_subcommand("sample", "write images of a config's data as PNG, or print its text");
  command->add_option("config", o->config, "config file")->required();
  command->add_option("--set", o->set, "change the config: --set data.seed=2")->allow_extra_args();
  command->add_option("--split", o->split, "train, validation or test (default: test)");
  command->add_option("--count", o->count, "how many (default: 5)")->check(CLI::Range(1, 10000));
  command->add_option("--out", o->out, "folder for images (default: samples)");
  command->callback([o] { set_exit_code(run(*o)); });
}

const RegisterCommand row{"data", add};

}  // namespace
}  // namespace tessera::cli
