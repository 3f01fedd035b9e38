// draw, compare, describe --config and report as a person uses them.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "tessera/config/json.h"
#include "tessera/core/file.h"
#include "tessera/data/image.h"

using namespace tessera;
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
  out.code = WEXITSTATUS(pclose(pipe));
  return out;
}

void check_mistake(const Output& out, const std::string& expected) {
  CAPTURE(out.text);
  CHECK(out.code == 2);
  CHECK(std::count(out.text.begin(), out.text.end(), '\n') == 1);
  CHECK(out.text.find(expected) != std::string::npos);
}

struct Folder {
  fs::path path = fs::temp_directory_path() / ("tessera-seeing-" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  std::string config(const std::string& name, const std::string& attention, int context) const {
    std::ofstream(path / (name + ".json"))
        << R"({"name": ")" << name << R"(", "task": "language_modeling", "model":
        {"type": "transformer", "width": 16, "depth": 2, "heads": 2, "attention": )"
        << attention << R"(}, "data": {"type": "grammar", "tokenizer": "char", "context": )"
        << context
        << R"(}, "train": {"steps": 12, "batch": 4, "eval_batches": 2, "log_every": 1}})";
    return *this / (name + ".json");
  }
};

}  // namespace

TEST_SUITE("cli") {
  TEST_CASE("a trained run is drawn and gets a report") {
    const Folder f;
    const std::string config = f.config("text", R"("dense")", 16), folder = f / "run";
    REQUIRE(run("train --quiet " + config + " --run " + folder).code == 0);
    CHECK(run("draw " + folder + " --list").text.find("attention_maps") != std::string::npos);
    CHECK(run("draw " + folder + " --out " + (f / "out")).code == 0);
    CHECK(load_image(f / "out/curves.png").size(0) == 3);
    CHECK(run("draw " + folder + " attention_maps --set layer=1 tokens=5 --out " + f.path.string())
              .code == 0);
    check_mistake(run("draw " + folder + " curve"), "did you mean \"curves\"");
    check_mistake(run("draw " + folder + " expert_load"), "no \"expert_load\" to show");
    check_mistake(run("draw " + folder + " attention_maps --set layer=7"), "2 layers");
    check_mistake(run("draw " + folder + " --set layer=1"), "PICTURE.key=value");

    const std::string page = read_file(folder + "/report.html");
    for (const char* part : {"<svg", "data:image/png;base64,", "Environment", "train_loss"}) {
      CHECK_MESSAGE(page.find(part) != std::string::npos, part);
    }
    CHECK(page.find("http") == std::string::npos);  // it asks no network for anything
    CHECK(run("report " + folder + " --out " + (f / "page.html")).code == 0);
    CHECK(fs::file_size(f / "page.html") > 10000);
  }

  TEST_CASE("a mixture of experts is drawn: attention beside the load of experts") {
    const Folder f;
    const std::string experts = R"("dense", "feed_forward": {"type": "moe", "experts": 4})";
    const std::string config = f.config("moe", experts, 16), folder = f / "run";
    REQUIRE(run("train --quiet " + config + " --run " + folder).code == 0);
    const Output drawn = run("draw " + folder + " --out " + (f / "out"));
    CAPTURE(drawn.text);
    CHECK(drawn.code == 0);
    for (const char* name : {"attention_maps", "expert_load", "curves"}) {
      CHECK(load_image(f / ("out/" + std::string(name) + ".png")).size(0) == 3);
    }
  }

  TEST_CASE("compare trains configs on one budget and tells them apart") {
    const Folder f;
    const std::string a = f.config("dense", R"("dense")", 16);
    const std::string b = f.config("near", R"({"type": "window", "window": 2})", 16);
    const std::string out = " --quiet --out " + (f / "cmp");
    REQUIRE(run("compare " + a + " " + b + " --seeds 2" + out).code == 0);
    const Json table = read_json(f / "cmp/compare.json");
    const Json &dense = table["models"][0], &near = table["models"][1];
    CHECK(table["metric"] == "val_loss");
    CHECK(dense["val_loss"]["values"].size() == 2);
    CHECK(dense["steps"] == 12);
    CHECK(dense["score_entries_per_unit"] == 2 * 2 * 8.5);
    CHECK(near["score_entries_per_unit"] == 2 * 2 * (1 + 2 + 3 * 14) / 16.0);
    CHECK(near["parameters"] == dense["parameters"]);
    CHECK(load_image(f / "cmp/compare.png").size(0) == 3);
    CHECK(run("compare " + a + " " + b + " --seeds 2 --resume" + out).code == 0);
    CHECK(read_json(f / "cmp/compare.json") == table);  // nothing was trained again

    const Output other = run("compare " + a + " " + b + " --budget score_entries=4e4 --out " +
                             (f / "b") + " --quiet --json");
    REQUIRE(other.code == 0);
    const Json by_entries = read_json(f / "b/compare.json");
    CHECK(by_entries["models"][1]["steps"] > by_entries["models"][0]["steps"]);

    check_mistake(run("compare " + a + " " + f.config("long", R"("dense")", 32) + out),
                  "data.context: 16, 32");
    check_mistake(run("compare " + a + " --budget hours=3" + out), "--budget hours=3");
  }

  TEST_CASE("describe counts parameters and multiply-adds of DeiT-Ti without training") {
    const Folder f;
    std::ofstream(f.path / "deit.json") << R"({"task": "image_classification", "model": {
      "type": "vit", "patch": 16, "width": 192, "depth": 12, "heads": 3},
      "data": {"type": "random_images", "size": 224, "classes": 1000}})";
    const Json d = Json::parse(run("describe --json --config " + (f / "deit.json")).text);
    CHECK(d["parameters"] == 5717416);
    CHECK(d["parameters_by_member"]["head"] == 193000);
    CHECK(d["score_entries"] == 12 * 3 * 197 * 197);
    CHECK(d["outputs"]["logits"] == Json::array({1, 1000}));
    const int64_t tokens = 197, width = 192, products = 12 * tokens * 12 * width * width;
    CHECK(d["multiply_adds"] ==
          products + 12 * 3 * tokens * tokens * 2 * 64 + 196 * width * 3 * 256 + width * 1000);
  }
}
