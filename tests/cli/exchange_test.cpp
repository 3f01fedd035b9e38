// Import and export as a person uses them.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "../core/temporary_folder.h"
#include "program.h"
#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/core/safetensors.h"

using tessera_tests::check_mistake;
using tessera_tests::Output;
using tessera_tests::run_program;
using tessera_tests::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

Output run_well(const std::string& arguments) {
  const Output out = run_program(arguments);
  CAPTURE(arguments);
  CAPTURE(out.text);
  CHECK(out.code == 0);
  return out;
}

fs::path data(const std::string& name) {
  const char* root = std::getenv("TESSERA_DATA_DIR");
  if (root != nullptr && fs::exists(fs::path(root) / name)) return fs::path(root) / name;
  MESSAGE("no " << name << " in $TESSERA_DATA_DIR: skipped");
  return {};
}

}  // namespace

TEST_SUITE("cli") {
  TEST_CASE("an imported GPT-2 generates, and its export imports as the same model") {
    const fs::path from = data("safetensors_small/tiny_gpt2_micro");
    if (from.empty()) return;
    TemporaryFolder folder;
    run_well("import " + from.string() + " --run " + (folder / "a"));
    const std::string prompt = " --prompt 'the cat' --tokens 30 --seed 3 --json";
    CHECK(run_well("generate " + (folder / "a") + prompt).text.find("the cat") !=
          std::string::npos);
    run_well("inspect " + (folder / "a"));
    run_well("export " + (folder / "a") + " " + (folder / "out"));
    run_well("import " + (folder / "out") + " --run " + (folder / "b"));
    const std::string weights = "/checkpoints/step-0/model.safetensors";
    CHECK(tessera::read_file((folder / "a") + weights) ==
          tessera::read_file((folder / "b") + weights));
    check_mistake(run_program("import " + from.string() + " --run " + (folder / "a")),
                  "exists already");
    check_mistake(run_program("export " + (folder / "a") + " " + (folder / "out")),
                  "exists already");
  }

  TEST_CASE("an imported text model is measured on a text") {
    const fs::path from = data("safetensors_small/tiny_gpt2_vocab50257");
    if (from.empty()) return;
    TemporaryFolder folder;
    std::string text;
    for (int i = 0; i < 2000; ++i) text += "the cat sat on mat " + std::to_string(i) + "\n";
    tessera::write_file_atomic(folder / "text.txt", text);
    run_well("import " + from.string() + " --data " + (folder / "text.txt") + " --run " +
             (folder / "a"));
    CHECK(run_well("eval " + (folder / "a") + " --batches 1").text.find("perplexity") !=
          std::string::npos);
  }

  TEST_CASE("an image model goes out and comes back, and classifies as before") {
    TemporaryFolder folder;
    const std::string config = folder / "image.json";
    tessera::write_file_atomic(config, R"({"name": "image", "task": "image_classification",
      "model": {"type": "vit", "patch": 7, "width": 16, "depth": 1, "heads": 2},
      "data": {"type": "glyphs", "transforms": [{"type": "normalize", "mean": [0.2], "std": [0.3]}]},
      "train": {"steps": 2, "batch": 4, "eval_batches": 1}})");
    run_well("train " + config + " --run " + (folder / "a"));
    run_well("data sample " + config + " --split validation --count 1 --out " +
             (folder / "images"));
    std::string image;
    for (const auto& file : fs::directory_iterator(folder / "images")) image = file.path().string();
    run_well("export " + (folder / "a") + " " + (folder / "out"));
    run_well("import " + (folder / "out") + " --run " + (folder / "b"));
    const std::string rest = " " + image + " --top 3 --json";
    CHECK(run_well("classify " + (folder / "a") + rest).text ==
          run_well("classify " + (folder / "b") + rest).text);
    run_well("data sample " + config + " --split test --count 5 --out " + (folder / "images"));
    const std::string line =
        "classify " + (folder / "a") + " " + (folder / "images") + " --batch 2";
    const std::string well = run_well(line).text;
    CHECK(std::count(well.begin(), well.end(), '\n') >= 5);
    tessera::write_file_atomic(folder / "images/cut.png", tessera::read_file(image).substr(0, 60));
    tessera::write_file_atomic(folder / "images/empty.jpg", "");
    const Output mixed = run_program(line);
    CHECK(mixed.code == 2);
    CHECK(mixed.text.find("cut.png: byte 0: ") != std::string::npos);
    CHECK(mixed.text.find("empty.jpg: byte 0: ") != std::string::npos);
    CHECK(std::count(mixed.text.begin(), mixed.text.end(), '\n') ==
          std::count(well.begin(), well.end(), '\n') + 2);
    fs::create_directory(folder / "none");
    check_mistake(run_program("classify " + (folder / "a") + " " + (folder / "none")),
                  "no PNG, JPEG");
  }

  TEST_CASE("logits of tensors come as tensors, and a wrong file is named") {
    const fs::path from = data("safetensors_small/tiny_gpt2_micro");
    if (from.empty()) return;
    TemporaryFolder folder;
    run_well("import " + from.string() + " --run " + (folder / "a"));
    const auto tokens = tessera::from_values(std::vector<int64_t>{47, 35, 32, 71, 30, 1}, {2, 3});
    tessera::write_safetensors(folder / "in", {{"tokens", tokens}});
    const std::string line = "logits " + (folder / "a") + " " + (folder / "in");
    run_well(line + " " + (folder / "out") + " --greedy 5");
    const auto out = tessera::SafetensorsFile::open(folder / "out");
    CHECK(out.info("logits").shape[1] == 3);
    CHECK(out.info("greedy").shape == tessera::Shape{2, 5});
    tessera::write_safetensors(folder / "in", {{"images", tokens}});
    check_mistake(run_program(line + " " + (folder / "out")), "holds no \"tokens\"");
  }

  TEST_CASE("a text becomes ids whatever its length, from a file or standard input") {
    const fs::path vocabulary = data("tokenizer_gpt2");
    if (vocabulary.empty()) return;
    TemporaryFolder folder;
    std::string text;
    for (int i = 0; i < 700000; ++i) text += "word " + std::to_string(i % 10);
    tessera::write_file_atomic(folder / "text", text + "\n");
    const std::string line = "data tokenize " + vocabulary.string();
    const std::string ids = run_well(line + " " + (folder / "text")).text;
    CHECK(ids.starts_with("4775 657 4775 352"));
    CHECK(run_well(line + " < " + (folder / "text")).text.starts_with(ids.substr(0, 1 << 20)));
    tessera::write_file_atomic(folder / "text", "");
    CHECK(run_well(line + " --json " + (folder / "text")).text.starts_with("[]\n"));
    check_mistake(run_program(line + " " + folder.path()), "directory");
    check_mistake(run_program(line + " " + (folder / "nowhere")), "cannot be read");
    check_mistake(run_program("data tokenize " + (folder / "nowhere") + " x"), "no such file");
  }

  TEST_CASE("broken checkpoints give one line and exit code 2, and leave no run behind") {
    const fs::path from = data("safetensors_small/tiny_gpt2_micro");
    if (from.empty()) return;
    TemporaryFolder folder;
    fs::create_directory(folder / "bad");
    fs::copy_file(from / "config.json", folder / "bad/config.json");
    const std::string weights = tessera::read_file((from / "model.safetensors").string());
    const std::string line = "import " + (folder / "bad") + " --run " + (folder / "run");
    check_mistake(run_program(line), "holds no model.safetensors");
    tessera::write_file_atomic(folder / "bad/model.safetensors", weights.substr(0, 20000));
    check_mistake(run_program(line), "model.safetensors: byte ");
    std::string renamed = weights;
    renamed.replace(renamed.find("h.0.ln_1.bias"), 13, "h.0.ln_9.bias");
    tessera::write_file_atomic(folder / "bad/model.safetensors", renamed);
    check_mistake(run_program(line), "\"transformer.h.0.ln_1.bias\" of shape (16) is missing");
    check_mistake(run_program("import " + (folder / "nowhere") + " --run " + (folder / "run")),
                  "no such");
    CHECK(folder.files() == 1);
  }
}
