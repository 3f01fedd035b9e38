// 1,000 inputs broken by seeded mutation: configs, checkpoints, images, IDX files. Each is taken or
// refused by an Error of one line, which the program prints with exit code 2; nothing crashes.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <fmt/format.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>

#include "../core/temporary_folder.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/config/error.h"
#include "tessera/config/json.h"
#include "tessera/core/allocator.h"
#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/core/random.h"
#include "tessera/core/safetensors.h"
#include "tessera/data/gzip.h"
#include "tessera/data/image.h"
#include "tessera/inference/classify.h"
#include "tessera/inference/generate.h"
#include "tessera/models/run_folder.h"
#include "tessera/train/trainer.h"

using namespace tessera;
using tessera_tests::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

const std::string kText =
    R"({"name": "text", "seed": 1, "device": "cpu", "task": "language_modeling",
  "model": {"type": "transformer", "width": 16, "depth": 1, "heads": 2, "norm": "layer",
            "attention": {"type": "dense", "kv_heads": 1}, "positions": "rotary",
            "feed_forward": {"type": "mlp", "activation": "gelu", "ratio": 2.0}},
  "data": {"type": "grammar", "tokenizer": {"type": "char"}, "context": 16, "train_size": 2000,
           "validation_size": 300},
  "train": {"steps": 1, "batch": 2, "eval_batches": 1, "clip": 1.0, "precision": "f32",
            "optimizer": {"type": "adamw", "lr": 1e-3}, "ema": {"decay": 0.5},
            "schedule": {"type": "cosine", "warmup": 2}, "checkpoint_every": 5},
  "expect": {"val_loss": {"max": 9.5}}})";

const std::string kImage = R"({"name": "image", "task": "image_classification",
  "model": {"type": "vit", "patch": 7, "width": 8, "depth": 1, "heads": 2},
  "data": {"type": "glyphs", "validation_size": 8, "test_size": 8},
  "train": {"steps": 1, "batch": 2, "eval_batches": 1, "optimizer": "sgd"}})";

const std::string kIdx = R"({"type": "idx", "images": "images", "labels": "labels",
  "test_images": "test-images", "test_labels": "test-labels", "classes": 4})";

// Tensors of a broken file may ask for much; what is refused is refused early.
struct MemoryLimit {
  int64_t machine = allocator({}).limit();
  MemoryLimit() { allocator({}).set_limit(allocator({}).stats().live + (int64_t{1} << 28)); }
  ~MemoryLimit() { allocator({}).set_limit(machine); }
};

template <class List>
const auto& pick(const List& list, Generator& random) {
  return list[static_cast<size_t>(random.below(static_cast<int64_t>(std::size(list))))];
}

size_t place(const std::string& bytes, Generator& random) {
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t range = random.below(2) ? std::min<int64_t>(size, 96) : size;  // headers are dense
  return static_cast<size_t>(random.below(std::max<int64_t>(range, 1)));
}

void edit_bytes(std::string& bytes, Generator& random) {
  const size_t at = place(bytes, random);
  const auto left = static_cast<int64_t>(bytes.size() - std::min(at, bytes.size()));
  const auto some = static_cast<size_t>(1 + random.below(12));
  switch (random.below(6)) {
    case 0:
      bytes.resize(at);
      break;
    case 1:
      bytes.insert(at, std::string(some, static_cast<char>(random.below(256))));
      break;
    case 2:
      bytes.erase(at, some);
      break;
    case 3:
      for (int64_t i = 0; i < std::min<int64_t>(4, left); ++i) {
        bytes[at + static_cast<size_t>(i)] = random.below(2) ? '\xFF' : '\x7F';
      }
      break;
    default:
      if (left > 0) bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
  }
}

// The places where a character of `set` begins a run of such characters.
std::vector<std::pair<size_t, size_t>> runs_of(const std::string& text, const char* set) {
  std::vector<std::pair<size_t, size_t>> runs;
  for (size_t at = text.find_first_of(set); at != text.npos;) {
    const size_t end = std::min(text.find_first_not_of(set, at), text.size());
    runs.emplace_back(at, end - at);
    at = text.find_first_of(set, end);
  }
  return runs;
}

void edit_text(std::string& text, Generator& random) {
  constexpr const char* kValues[] = {"-1",
                                     "0",
                                     "1",
                                     "3",
                                     "1000000000",
                                     "0.5",
                                     "1e300",
                                     "null",
                                     "[]",
                                     "9223372036854775807",
                                     "true",
                                     "{}",
                                     "1e-320",
                                     "2147483648",
                                     "18446744073709551616",
                                     "\"x\"",
                                     "\"\\n\\u0000\"",
                                     "[[[1]]]",
                                     "-9223372036854775808"};
  const auto numbers = runs_of(text, "-.0123456789e+");
  const auto words = runs_of(text, "abcdefghijklmnopqrstuvwxyz_");
  const auto marks = runs_of(text, "{}[]:,\"");
  switch (random.below(5)) {
    case 0:
    case 1:
      if (!numbers.empty()) {
        const auto [at, length] = pick(numbers, random);
        text.replace(at, length, pick(kValues, random));
      }
      break;
    case 2:
      if (!words.empty()) {
        const auto [at, length] = pick(words, random);
        text.replace(at, length, random.below(2) ? "" : text.substr(at, length - 1) + "q");
      }
      break;
    case 3:
      if (!marks.empty()) {
        const auto [at, length] = pick(marks, random);
        text.erase(at, 1 + random.below(static_cast<int64_t>(length)));
      }
      break;
    default:
      edit_bytes(text, random);
  }
}

std::string mutate(std::string content, bool text, uint64_t seed) {
  Generator random(seed, 6);
  for (int64_t edits = 1 + random.below(3); edits > 0; --edits) {
    text ? edit_text(content, random) : edit_bytes(content, random);
  }
  return content;
}

// Numbers that ask for long, not for wrong work are made small: they are valid.
void shorten(Json& json) {
  constexpr std::array kWork = {"steps",           "accumulate", "tokens",       "train_size",
                                "validation_size", "test_size",  "eval_batches", "batch",
                                "depth",           "eval_batch"};
  for (auto& [key, value] : json.items()) {
    if (value.is_structured()) shorten(value);
    const bool work = std::find(kWork.begin(), kWork.end(), key) != kWork.end();
    const int64_t most = key.ends_with("_size") ? 2000 : 4;
    if (work && value.is_number() && value.get<double>() > static_cast<double>(most)) value = most;
  }
}

// Empty when `use` succeeds or throws what the program shows as one line; else what went wrong.
std::string fault(const std::function<void()>& use, int64_t& refused) {
  std::string message;
  try {
    use();
    return "";
  } catch (const Error& error) {
    message = error.what();
  } catch (const ConfigError& error) {
    message = error.what();
  } catch (const std::exception& error) {
    return fmt::format("{}: {}", typeid(error).name(), error.what());
  }
  ++refused;
  const bool line = !message.empty() && message.find('\n') == message.npos;
  return line ? "" : "not one line: " + message;
}

void write(const fs::path& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
}

// A config as `tessera train` takes it.
void use_config(const std::string& text, const fs::path& base) {
  Json json = parse_json(text, "config.json");
  shorten(json);
  const auto config = from_json<RunConfig>(json);
  fs::remove_all(base / "run");
  train(config, {.run = base / "run", .base = base, .resume = false, .quiet = true});
}

void use_run(const fs::path& path) {
  const RunFolder run(path);
  const auto model = run.load_model();
  const RunCard card = run.card();
  auto* lm = dynamic_cast<LanguageModel*>(model.get());
  check(lm != nullptr && card.data.tokenizer != nullptr, "{}: writes no text", path.string());
  std::vector<int64_t> tokens = card.data.tokenizer->encode("the ");
  generate(*lm, tokens, {.tokens = 3, .sampling = {}}, [&](int64_t token) {
    tokens.push_back(token);
    return true;
  });
  card.data.tokenizer->decode(tokens);
}

void resume_run(const fs::path& path) {
  const RunFolder run(path);
  Json json = run.config();
  shorten(json);
  auto config = from_json<RunConfig>(json);
  config.train.steps = 2;
  train(config, {.run = path, .base = path, .resume = true, .quiet = true});
}

struct Trained {
  TemporaryFolder folder;
  fs::path run = fs::path(folder.path()) / "trained";
  explicit Trained(const std::string& config) {
    train(from_json<RunConfig>(parse_json(config, "config")),
          {.run = run, .base = folder.path(), .resume = false, .quiet = true});
  }
};

std::string big_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>((value >> shift) & 0xFF);
  return bytes;
}

std::string little_endian(uint32_t value) {
  const std::string bytes = big_endian(value);
  return {bytes.rbegin(), bytes.rend()};
}

std::string idx_images(uint32_t count) {
  std::string bytes = big_endian(0x803) + big_endian(count) + big_endian(5) + big_endian(6);
  for (uint32_t i = 0; i < 30 * count; ++i) bytes += static_cast<char>(i * 7 & 0xFF);
  return bytes;
}

std::string idx_labels(uint32_t count) {
  std::string bytes = big_endian(0x801) + big_endian(count);
  for (uint32_t i = 0; i < count; ++i) bytes += static_cast<char>(i % 4);
  return bytes;
}

// gzip of one stored block.
std::string gzip(const std::string& bytes) {
  const auto size = static_cast<uint32_t>(bytes.size());
  const std::string length = little_endian(size).substr(0, 2);
  const std::string inverse = little_endian(~size).substr(0, 2);
  return std::string("\x1F\x8B\x08\0\0\0\0\0\0\x03\x01", 11) + length + inverse + bytes +
         little_endian(crc32(bytes)) + little_endian(size);
}

// An uncompressed 24-bit BMP of 4 x 3 pixels.
std::string bmp() {
  std::string bytes = "BM" + little_endian(54 + 36) + little_endian(0) + little_endian(54) +
                      little_endian(40) + little_endian(4) + little_endian(3) +
                      std::string("\x01\0\x18\0", 4);
  for (int i = 0; i < 6; ++i) bytes += little_endian(0);
  for (int i = 0; i < 36; ++i) bytes += static_cast<char>(i * 7);
  return bytes;
}

std::vector<std::string> sample_images() {
  RandomScope scope(3);
  return {encode_png(rand({1, 28, 28})), encode_png(rand({3, 9, 14})),
          encode_png(zeros({3, 40, 7})), bmp()};
}

const std::vector<std::string>& run_files() {
  static const std::vector<std::string> files = {"config.json",
                                                 "run.json",
                                                 "checkpoints/step-1/state.json",
                                                 "checkpoints/step-1/model.safetensors",
                                                 "checkpoints/step-1/optimizer.safetensors",
                                                 "checkpoints/step-1/ema.safetensors"};
  return files;
}

// A copy of the run with one of its files broken.
void break_run(const fs::path& from, const fs::path& to, uint64_t seed) {
  fs::remove_all(to);
  fs::copy(from, to, fs::copy_options::recursive);
  const std::string& file = run_files()[seed % run_files().size()];
  write(to / file, mutate(read_file(from / file), file.ends_with(".json"), seed));
}

struct Exit {
  int code = 0;
  std::string errors;
};

Exit run_program(const std::string& arguments) {
  const std::string line = fmt::format("{} {} 2>&1 >/dev/null", TESSERA_PROGRAM, arguments);
  FILE* pipe = popen(line.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Exit exit;
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    exit.errors.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  exit.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return exit;
}

bool well_behaved(const Exit& exit) {
  const auto lines = std::count(exit.errors.begin(), exit.errors.end(), '\n');
  return exit.code == 0 || (exit.code == 2 && lines == 1 && exit.errors.starts_with("tessera: "));
}

}  // namespace

TEST_SUITE("cli") {
  TEST_CASE("400 mutated configs train or are refused in one line") {
    const MemoryLimit limit;
    const TemporaryFolder folder;
    int64_t refused = 0;
    use_config(kText, folder.path());
    for (uint64_t seed = 0; seed < 400; ++seed) {
      const std::string text = mutate(seed % 3 ? kText : kImage, true, seed);
      CAPTURE(seed);
      CAPTURE(text);
      CHECK(fault([&] { use_config(text, folder.path()); }, refused) == "");
    }
    CHECK(refused > 200);
  }

  TEST_CASE("250 mutated checkpoints are used and resumed or refused in one line") {
    const MemoryLimit limit;
    const Trained trained(kText);
    const fs::path broken = fs::path(trained.folder.path()) / "broken";
    int64_t refused = 0;
    use_run(trained.run);
    for (uint64_t seed = 0; seed < 250; ++seed) {
      break_run(trained.run, broken, seed);
      CAPTURE(seed);
      CHECK(fault([&] { use_run(broken); }, refused) == "");
      CHECK(fault([&] { resume_run(broken); }, refused) == "");
    }
    CHECK(refused > 200);
  }

  TEST_CASE("200 mutated images are classified or refused in one line") {
    const Trained trained(kImage);
    const RunFolder run(trained.run);
    const RunCard card = run.card();
    const auto model = run.load_model();
    auto& classifier = dynamic_cast<ImageClassifier&>(*model);
    const auto use = [&](const std::string& bytes) {
      const Tensor image =
          preprocess(decode_image(bytes, "image"), card.data.info, card.data.transforms);
      CHECK(classify(classifier, unsqueeze(image, 0), 3)[0].size() == 3);
    };
    const auto samples = sample_images();
    int64_t refused = 0;
    for (const std::string& sample : samples) use(sample);
    for (uint64_t seed = 0; seed < 200; ++seed) {
      CAPTURE(seed);
      const std::string bytes = mutate(samples[seed % samples.size()], false, seed);
      CHECK(fault([&] { use(bytes); }, refused) == "");
    }
    CHECK(refused > 50);
  }

  TEST_CASE("150 mutated IDX files are read or refused in one line") {
    const TemporaryFolder folder;
    const fs::path base = folder.path();
    const std::map<std::string, std::string> good = {{"images", idx_images(6)},
                                                     {"labels", gzip(idx_labels(6))},
                                                     {"test-images", gzip(idx_images(3))},
                                                     {"test-labels", idx_labels(3)}};
    const auto use = [&] {
      const auto choice = from_json<Choice<Dataset>>(parse_json(kIdx, "config"), "data");
      const auto data = choice.build(DataContext{base, 1});
      for (const Split split : {Split::train, Split::validation, Split::test}) {
        data->get(split, std::vector<int64_t>{data->size(split) - 1}, 1);
      }
    };
    int64_t refused = 0;
    for (const auto& [name, bytes] : good) write(base / name, bytes);
    use();
    for (uint64_t seed = 0; seed < 150; ++seed) {
      const auto& [name, bytes] = *std::next(good.begin(), static_cast<ptrdiff_t>(seed % 4));
      const std::string broken = mutate(bytes, false, seed);
      write(base / name, seed % 3 == 0 ? gzip(broken) : broken);
      CAPTURE(seed);
      CHECK(fault(use, refused) == "");
      write(base / name, bytes);
    }
    CHECK(refused > 75);
  }

  TEST_CASE("the program answers mutated files with one line and exit code 2") {
    const Trained text(kText);
    const Trained image(kImage);
    const fs::path base = text.folder.path();
    const auto images = sample_images();
    int64_t refused = 0;
    for (uint64_t seed = 1000; seed < 1040; ++seed) {
      std::string arguments;
      if (seed % 4 == 0) {
        const std::string config = mutate(kText, true, seed);
        Json json = Json::parse(config, nullptr, false);
        if (!json.is_discarded()) shorten(json);
        write(base / "config.json", json.is_discarded() ? config : json.dump());
        arguments = fmt::format("train {0}/config.json --quiet --run {0}/{1}", base.string(), seed);
      } else if (seed % 4 == 1) {
        break_run(text.run, base / "broken", seed / 4);
        arguments = fmt::format("generate {}/broken --prompt the --tokens 3", base.string());
      } else if (seed % 4 == 2) {
        write(base / "image.png", mutate(images[seed / 4 % images.size()], false, seed));
        arguments = fmt::format("classify {} {}/image.png", image.run.string(), base.string());
      } else {
        const auto file = text.run / "checkpoints/step-1/model.safetensors";
        write(base / "x.safetensors", mutate(read_file(file), false, seed));
        arguments = fmt::format("inspect {}/x.safetensors", base.string());
      }
      const Exit exit = run_program(arguments);
      CAPTURE(arguments);
      CAPTURE(exit.code);
      CAPTURE(exit.errors);
      CHECK(well_behaved(exit));
      refused += exit.code == 2;
    }
    CHECK(refused > 15);
  }

  TEST_CASE("sizes beyond any machine are refused in one line") {
    const TemporaryFolder folder;
    const std::string config = folder / "config.json";
    write(config, kText);
    for (const char* setting :
         {"model.width=1000000000", "model.width=1000000", "model.depth=1000000000",
          "model.heads=4611686018427387904", "model.head_dim=65536 model.heads=65536",
          "model.feed_forward.ratio=1e300", "train.batch=1000000000", "data.context=1000000000"}) {
      const Exit exit = run_program(
          fmt::format("train {} --quiet --run {} --set {}", config, folder / "r", setting));
      CAPTURE(setting);
      CAPTURE(exit.errors);
      CHECK(exit.code == 2);
      CHECK(well_behaved(exit));
    }
    CHECK_FALSE(fs::exists(folder / "r"));
  }
}
