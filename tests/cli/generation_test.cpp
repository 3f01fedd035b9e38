// Texts and perplexities from the command line.
#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "../core/temporary_folder.h"
#include "program.h"
#include "tessera/config/json.h"
#include "tessera/core/file.h"

using namespace tessera;
using tessera_tests::check_mistake;
using tessera_tests::Output;
using tessera_tests::TemporaryFolder;

namespace {

// A model of bytes, or with another tokenizer, trained for some steps.
struct Trained {
  TemporaryFolder folder;
  std::string run;

  explicit Trained(const std::string& tokenizer = "byte") : run(folder / "run") {
    const std::string config = file("text.json", R"({"name": "text", "task": "language_modeling",
      "model": {"type": "transformer", "width": 16, "depth": 1, "heads": 2},
      "data": {"type": "grammar", "context": 16, "tokenizer": ")" +
                                                     tokenizer + R"("},
      "train": {"steps": 20, "batch": 4, "eval_batches": 1}})");
    const Output out = tessera_tests::run_program("train " + config + " --run " + run + " --quiet");
    CAPTURE(out.text);
    REQUIRE(out.code == 0);
  }
  std::string file(const std::string& name, const std::string& text) const {
    write_file_atomic(folder / name, text);
    return folder / name;
  }
  Output generate(const std::string& arguments) const {
    return tessera_tests::run_program("generate " + run + " --tokens 30 " + arguments);
  }
  Output perplexity(const std::string& arguments) const {
    return tessera_tests::run_program("perplexity " + run + " " + arguments);
  }
  std::vector<Json> answers(const std::string& arguments) const {
    const Output out = generate("--json " + arguments);
    CAPTURE(out.text);
    REQUIRE(out.code == 0);
    std::vector<Json> list;
    std::istringstream lines(out.text);
    for (std::string line; std::getline(lines, line);) list.push_back(Json::parse(line));
    return list;
  }
};

std::string text_of(const Json& answer) {
  return answer["text"].get<std::string>();
}

}  // namespace

TEST_SUITE("cli") {
  TEST_CASE("prompts are continued together as each alone, from arguments and files") {
    const Trained t;
    const auto a = t.answers("--prompt 'the ' --seed 4"), b = t.answers("--prompt 'a' --seed 5");
    REQUIRE(a.size() == 1);
    CHECK(text_of(a[0]).starts_with("the "));
    CHECK(a[0]["tokens"] == 30);
    CHECK(a[0]["end"] == "length");
    const std::string lines = t.file("prompts.txt", "the \r\na\n\n");
    const std::string json = t.file("prompts.jsonl", "\"the \"\n{\"prompt\": \"a\", \"id\": 3}\n");
    for (const std::string& arguments :
         {std::string("--prompt 'the ' --prompt a"),
          std::string("--prompt 'the ' --prompt a --paged"),
          std::string("--prompt 'the ' --prompt a --no-cache"), "--prompts " + lines,
          "--prompts " + json + " --batch 1", "--prompt 'the ' --prompts " + t.file("one", "a")}) {
      CAPTURE(arguments);
      const auto both = t.answers(arguments + " --seed 4");
      REQUIRE(both.size() == 2);
      CHECK(text_of(both[0]) == text_of(a[0]));
      CHECK(text_of(both[1]) == text_of(b[0]));
    }
  }

  TEST_CASE("a stop string ends the text and is not shown; speeds go to stderr") {
    const Trained t("char");
    const std::string whole = t.answers("--prompt t")[0]["continuation"].get<std::string>();
    const std::string stop = whole.substr(10, 2);
    const Json answer = t.answers("--prompt t --stop zzz --stop '" + stop + "'")[0];
    CHECK(answer["end"] == "stop");
    CHECK(answer["continuation"] == whole.substr(0, whole.find(stop)));
    const Output plain = t.generate("--prompt t 2>/dev/null");
    CHECK(plain.text == "t" + whole + "\n");
    CHECK(t.generate("--prompt t").text.find("tokens/s; decode:") != std::string::npos);
    check_mistake(t.generate("--stop ''"), "stop string is empty");
  }

  TEST_CASE("any prompt gives a text or one line") {
    const Trained t;
    CHECK(t.generate("--prompt \"$(printf 'a\\377\\303')\" 2>/dev/null")
              .text.starts_with("a\uFFFD\uFFFD"));
    CHECK(t.answers("--prompts " + t.file("long", std::string(3000000, 'y'))).size() == 1);
    check_mistake(t.generate("--prompt ''"), "the prompt is empty");
    check_mistake(t.generate("--prompts " + t.file("none", "\n\n")), "holds no prompt");
    check_mistake(t.generate("--prompts " + t.folder.path()), "is a directory");
    check_mistake(t.generate("--prompts nowhere.txt"), "cannot be read");
    check_mistake(t.generate("--prompts " + t.file("bad.jsonl", "\"a\"\n[1]\n")), "line 2");
    check_mistake(t.generate("--prompts " + t.file("cut.jsonl", "{\"prompt\"")), "line 1");
    check_mistake(t.generate("--precision bf16"), "needs a CUDA device");
    check_mistake(t.generate("--min-p 2"), "min-p");
    check_mistake(Trained("char").generate("--prompt '#'"), "'#'");
  }

  TEST_CASE("the perplexity of any file is printed, or one line") {
    const Trained t;
    std::string text;
    for (int i = 0; i < 40; ++i) text += "the cat sees a dog number " + std::to_string(i) + ".\n";
    const std::string file = t.file("text.txt", text);
    const Output plain = t.perplexity(file);
    CHECK(plain.code == 0);
    CHECK(plain.text.find("per token") != std::string::npos);
    const Json json = Json::parse(t.perplexity(file + " --json").text);
    CHECK(json["bytes"] == text.size() - 1);
    CHECK(json["tokens"] == text.size() - 1);
    CHECK(json["perplexity"] == json["perplexity_per_byte"]);
    CHECK(json["perplexity"].get<double>() > 1);
    const Json narrow = Json::parse(t.perplexity(file + " --json --context 2 --stride 1").text);
    CHECK(narrow["tokens"] == json["tokens"]);
    CHECK(narrow["perplexity"] != json["perplexity"]);
    const Json stepwise = Json::parse(t.perplexity(file + " --json --batch 1").text);
    CHECK(stepwise["nats"].get<double>() == doctest::Approx(json["nats"].get<double>()));
    CHECK(t.perplexity(t.file("binary", std::string("\x00\xFF\xC3\x80\x00", 5))).code == 0);
    const Output ids = t.generate("--prompt 'a dog' --ids 2> /dev/null");
    CHECK(ids.text.starts_with("97 32 100 111 103 "));
    CHECK(t.answers("--prompt 'a dog' --ids")[0]["ids"].size() == 35);
    const Json by_ids = Json::parse(t.perplexity(t.file("ids", ids.text) + " --ids --json").text);
    CHECK(by_ids["tokens"] == 34);
    CHECK(by_ids["bytes"] == 34);
    check_mistake(t.perplexity(file + " --ids"), "wants decimal numbers");
    check_mistake(t.perplexity(t.file("empty", "")), "is empty");
    check_mistake(t.perplexity(t.file("one", "a")), "takes two");
    check_mistake(t.perplexity("nowhere.txt"), "no such file");
    check_mistake(t.perplexity(t.folder.path()), "not a file");
    check_mistake(t.perplexity(file + " --context 17"), "at most 16");
    check_mistake(t.perplexity(file + " --context 4 --stride 5"), "stride of 5");
  }
}
