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
