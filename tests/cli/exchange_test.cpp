// Import and export as a person uses them.
#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "../core/temporary_folder.h"
#include "tessera/core/file.h"
#include "tessera/core/safetensors.h"

using tessera_tests::TemporaryFolder;
namespace fs = std::filesystem;

namespace {

struct Output {
  int code = 0;
  std::string text;  // stdout and stderr together
};

Output run(const std::string& arguments) {
  FILE* pipe = popen((std::string(TESSERA_PROGRAM) + " " + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  Output out;
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    out.text.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return out;
}

Output run_well(const std::string& arguments) {
  const Output out = run(arguments);
  CAPTURE(arguments);
  CAPTURE(out.text);
  CHECK(out.code == 0);
  return out;
}

void check_mistake(const Output& out, const std::string& expected) {
  CAPTURE(out.text);
  CHECK(out.code == 2);
  CHECK(std::count(out.text.begin(), out.text.end(), '\n') == 1);
  CHECK(out.text.find(expected) != std::string::npos);
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
    check_mistake(run("import " + from.string() + " --run " + (folder / "a")), "exists already");
    check_mistake(run("export " + (folder / "a") + " " + (folder / "out")), "exists already");
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
    check_mistake(run(line), "holds no model.safetensors");
    tessera::write_file_atomic(folder / "bad/model.safetensors", weights.substr(0, 20000));
    check_mistake(run(line), "model.safetensors: byte ");
    std::string renamed = weights;
    renamed.replace(renamed.find("h.0.ln_1.bias"), 13, "h.0.ln_9.bias");
    tessera::write_file_atomic(folder / "bad/model.safetensors", renamed);
    check_mistake(run(line), "\"transformer.h.0.ln_1.bias\" of shape (16) is missing");
    check_mistake(run("import " + (folder / "nowhere") + " --run " + (folder / "run")), "no such");
    CHECK(folder.files() == 1);
  }
}
