// The program as a person uses it: run as a process, judged by its output and exit code.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>

#include "program.h"
#include "tessera/config/json.h"
#include "tessera/core/random.h"

using namespace tessera;
namespace fs = std::filesystem;

using tessera_tests::check_mistake;
using tessera_tests::Output;
using tessera_tests::run_program;

namespace {

int64_t lines(const std::string& text) {
  return std::count(text.begin(), text.end(), '\n');
}

// A folder that goes away with the test.
struct Folder {
  fs::path path;
  Folder() : path(fs::temp_directory_path() / ("tessera-cli-" + std::to_string(::getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return (path / name).string();
  }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
};

const char* kText = R"({"name": "text", "task": "language_modeling",
  "model": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
  "data": {"type": "grammar", "tokenizer": "char", "context": 16},
  "train": {"steps": 20, "batch": 4, "eval_batches": 2, "checkpoint_every": 10}})";

const char* kImage = R"({"name": "image", "task": "image_classification",
  "model": {"type": "vit", "patch": 7, "width": 16, "depth": 1, "heads": 2},
  "data": {"type": "glyphs"},
  "train": {"steps": 10, "batch": 4, "eval_batches": 2}})";

}  // namespace

TEST_SUITE("cli") {
  TEST_CASE("every command has help, and the program lists them") {
    const Output all = run_program("--help");
    CHECK(all.code == 0);
    for (const char* command : {"train", "eval", "generate", "classify", "gradcheck", "list",
                                "describe", "inspect", "schema", "data"}) {
      CHECK(all.text.find(command) != std::string::npos);
      const Output help = run_program(std::string(command) + " --help");
      CHECK(help.code == 0);
      CHECK(help.text.size() > 80);
    }
  }

  TEST_CASE("a text model is trained, measured, inspected and writes") {
    Folder folder;
    const std::string config = folder.file("text.json", kText);
    const std::string r = folder / "run";
    const Output trained = run_program("train " + config + " --run " + r + " --quiet");
    CAPTURE(trained.text);
    REQUIRE(trained.code == 0);
    CHECK(trained.text.find("val_loss") != std::string::npos);
    const Json eval = Json::parse(run_program("eval " + r + " --json").text);
    CHECK(eval["step"] == 20);
    CHECK(eval["metrics"].contains("perplexity"));
    const Output inspect = run_program("inspect " + r);
    CHECK(inspect.text.find("parameters in all") != std::string::npos);
    CHECK(run_program("inspect " + r + "/checkpoints/step-20/model.safetensors")
              .text.find("embedding.weight") != std::string::npos);
    const Json text =
        Json::parse(run_program("generate " + r + " --prompt 'the ' --tokens 30 --json").text);
    CHECK(text["text"].get<std::string>().starts_with("the "));
    CHECK(text["tokens"] == 30);
    CHECK(run_program("generate " + r +
                      " --prompt a --tokens 5 --temperature 0 --top-k 3 --top-p 0.9")
              .code == 0);
  }

  TEST_CASE("an image model is trained and names the class of PNG files") {
    Folder folder;
    const std::string config = folder.file("image.json", kImage);
    const std::string r = folder / "run";
    REQUIRE(run_program("train " + config + " --run " + r + " --quiet").code == 0);
    const Output sample =
        run_program("data sample " + config + " --count 3 --out " + (folder / "png"));
    CHECK(sample.code == 0);
    CHECK(lines(sample.text) == 3);
    const Json answer = Json::parse(
        run_program("classify " + r + " " + (folder / "png") + "/*.png --top 3 --json").text);
    REQUIRE(answer.size() == 3);
    CHECK(answer[0]["predictions"].size() == 3);
    check_mistake(run_program("classify " + r + " " + config), "image.json");
  }

  TEST_CASE("--check exits 1 when expectations fall short and 0 when they hold") {
    Folder folder;
    Json config = Json::parse(kText);
    config["expect"] = {{"val_loss", {{"max", 0.01}}}};
    const std::string path = folder.file("text.json", config.dump());
    const Output fails = run_program("train " + path + " --quiet --check --run " + (folder / "a"));
    CHECK(fails.code == 1);
    CHECK(fails.text.find("FAIL val_loss") != std::string::npos);
    CHECK(run_program("train " + path + " --quiet --check --set expect.val_loss.max=9 --run " +
                      (folder / "b"))
              .code == 0);
  }

  TEST_CASE("a run killed with SIGKILL at random moments resumes to the same final weights") {
    Folder folder;
    Json config = Json::parse(kText);
    config["train"]["steps"] = 60;
    config["train"]["checkpoint_every"] = 5;
    config["train"]["keep_checkpoints"] = 1;
    const std::string path = folder.file("text.json", config.dump());
    REQUIRE(
        run_program("train " + path + " --quiet --threads 1 --run " + (folder / "straight")).code ==
        0);
    Generator random(7);
    for (int threads : {1, 2}) {
      const std::string r = folder / ("killed" + std::to_string(threads));
      for (int kill = 0; kill < 4; ++kill) {
        const double wait = 0.05 + 0.15 * random.uniform();
        run_program(fmt::format(
            "train {} --quiet --resume --threads {} --run {} & sleep {:.3f}; kill -9 $!", path,
            threads, r, wait));
      }
      REQUIRE(run_program(
                  fmt::format("train {} --quiet --resume --threads {} --run {}", path, threads, r))
                  .code == 0);
      for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
        const std::string tail = std::string("/checkpoints/step-60/") + file;
        std::ifstream a(folder / "straight" + tail, std::ios::binary);
        std::ifstream b(r + tail, std::ios::binary);
        const std::string x((std::istreambuf_iterator<char>(a)), {});
        const std::string y((std::istreambuf_iterator<char>(b)), {});
        CHECK(x.size() > 1000);
        CHECK(x == y);
      }
    }
  }

  TEST_CASE("mistakes get one line and exit code 2") {
    Folder folder;
    const std::string config = folder.file("text.json", kText);
    check_mistake(run_program("train /no/such/file.json"), "/no/such/file.json");
    check_mistake(run_program("trian x"), "tessera");
    check_mistake(run_program("train " + config + " --set train.stepps=3 --run " + (folder / "r")),
                  "train.stepps: unknown key; did you mean \"steps\"?");
    check_mistake(
        run_program("train " + config + " --set model.type=transfomer --run " + (folder / "r")),
        "did you mean \"transformer\"?");
    check_mistake(run_program("train " + config + " --set train.batch=0 --run " + (folder / "r")),
                  "train.batch");
    check_mistake(run_program("train " + config + " --set device=cuda --run " + (folder / "r")),
                  "cuda");
    check_mistake(
        run_program("train " + config + " --set task=image_classification --run " + (folder / "r")),
        "image classifier");
    check_mistake(run_program("train " + folder.file("broken.json", "{\"name\": ")),
                  "broken.json:1:");
    check_mistake(run_program("eval " + (folder / "nowhere")), "no such run folder");
    check_mistake(run_program("generate " + folder.path.string()), "not a run folder");
    check_mistake(run_program("gradcheck sofmax"), "did you mean \"softmax\"?");
    check_mistake(run_program("describe transfomer"), "did you mean \"transformer\"?");
    check_mistake(run_program("list modell"), "did you mean \"model\"?");
    check_mistake(run_program("inspect " + config), "text.json");
    CHECK_FALSE(fs::exists(folder / "r"));
  }

  TEST_CASE("list, describe and schema know everything that is registered") {
    CHECK(run_program("list model").text.find("transformer") != std::string::npos);
    CHECK(run_program("list op").text.find("softmax") != std::string::npos);
    CHECK(run_program("describe transformer").text.find("depth") != std::string::npos);
    CHECK(run_program("describe run").text.find("checkpoint_every") != std::string::npos);
    const Json schema = Json::parse(run_program("schema").text);
    CHECK(schema["properties"].contains("train"));
    CHECK(Json::parse(run_program("list --json").text).contains("optimizer"));
    Folder folder;
    const std::string config = folder.file("text.json", kText);
    CHECK(run_program("describe --config " + config).text.find("parameters in all") !=
          std::string::npos);
  }

  TEST_CASE("gradcheck prints a table and agrees with itself in JSON") {
    const Output table = run_program("gradcheck softmax linear");
    CHECK(table.code == 0);
    CHECK(table.text.find("0 failed") != std::string::npos);
    CHECK(Json::parse(run_program("gradcheck softmax --json").text)[0]["ok"] == true);
  }
}
