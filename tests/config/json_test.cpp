#include "tessera/config/json.h"

#include <doctest/doctest.h>

#include <fstream>

#include "tessera/config/error.h"

namespace tessera {
namespace {

std::string parse_error(const std::string& text) {
  try {
    parse_json(text, "f.json");
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

std::string set_error(Json json, const std::string& assignment) {
  try {
    set_by_path(json, assignment);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

Json after_set(Json json, const std::string& assignment) {
  set_by_path(json, assignment);
  return json;
}

// A file of the given bytes that is gone at the end of the test.
struct TemporaryFile {
  std::filesystem::path path;
  explicit TemporaryFile(const std::string& bytes)
      : path(std::filesystem::temp_directory_path() /
             ("tessera_json_test_" + std::to_string(reinterpret_cast<uintptr_t>(this)))) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  ~TemporaryFile() { std::filesystem::remove(path); }
};

}  // namespace

TEST_CASE("a syntax error tells line and column") {
  CHECK(parse_error("{\n  \"a\": 1,\n  oops\n}").find("f.json:3:3: syntax error") == 0);
  CHECK(parse_error("{\"a\": 1").find("f.json:1:8: ") == 0);
  CHECK(parse_error("") == "f.json:1:1: the text is empty");
  CHECK(parse_error(" \n ") == "f.json:1:1: the text is empty");
  CHECK(parse_error("{} x").find("f.json:1:4: ") == 0);
  CHECK(parse_error("1e999").find("f.json:1:") == 0);
}

TEST_CASE("invalid UTF-8 is refused with its place and not repeated in the message") {
  const std::string error = parse_error("{\"a\": \"\xff\"}");
  CHECK(error.find("f.json:1:8: ") == 0);
  CHECK(error.find('\xff') == std::string::npos);
}

TEST_CASE("a repeated key is refused with its place") {
  CHECK(parse_error("{\"a\": 1,\n \"a\": 2}").find("f.json:2:") == 0);
  CHECK(parse_error("{\"a\": 1,\n \"a\": 2}").find("the key \"a\" is given twice") !=
        std::string::npos);
  CHECK(parse_error(R"({"a": {"a": [{"a": 1}, {"a": 2}]}})") == "no error");
}

TEST_CASE("nesting is allowed up to a limit and refused beyond it with its place") {
  auto nested = [](size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  CHECK(parse_error(nested(100)) == "no error");
  CHECK(parse_error(nested(101)).find("f.json:1:102: nested deeper than 100") == 0);
  CHECK(parse_error(std::string(1000000, '[')).find("nested deeper") != std::string::npos);
}

TEST_CASE("the order of keys is kept") {
  CHECK(parse_json(R"({"z": 1, "a": 2})", "text").dump() == R"({"z":1,"a":2})");
}

TEST_CASE("a file is read, and what is no readable file gives one line") {
  const TemporaryFile file("{\"a\": [1, 2]}\n");
  CHECK(read_json(file.path)["a"][1] == 2);
  const TemporaryFile empty("");
  CHECK_THROWS_WITH_AS(read_json(empty.path), doctest::Contains(":1:1: the text is empty"),
                       ConfigError);
  CHECK_THROWS_WITH_AS(read_json("/nowhere/x.json"), "/nowhere/x.json: no such file", ConfigError);
  CHECK_THROWS_WITH_AS(read_json("/"), "/: is a directory, not a file", ConfigError);
}

TEST_CASE("a value is set by its path, as JSON or else as a string") {
  CHECK(after_set({}, "train.steps=100").dump() == R"({"train":{"steps":100}})");
  CHECK(after_set({{"a", {{"b", 1}}}}, "a.b=[1, 2]").dump() == R"({"a":{"b":[1,2]}})");
  CHECK(after_set({}, "name=hello world").dump() == R"({"name":"hello world"})");
  CHECK(after_set({}, "name=\"7\"").dump() == R"({"name":"7"})");
  CHECK(after_set({}, "name=").dump() == R"({"name":""})");
  CHECK(after_set({}, "a=b=c").dump() == R"({"a":"b=c"})");
  CHECK(after_set({{"l", {{{"w", 1}}, {{"w", 2}}}}}, "l.1.w=5")["l"][1]["w"] == 5);
}

TEST_CASE("setting a key inside a bare name turns it into an object of that type") {
  CHECK(after_set({{"attention", "routing"}}, "attention.clusters=8").dump() ==
        R"({"attention":{"type":"routing","clusters":8}})");
}

TEST_CASE("a path that cannot be followed is refused") {
  const Json json = {{"n", 5}, {"l", {1, 2, 3}}};
  CHECK(set_error(json, "n") == "--set n: expected KEY=VALUE, such as train.steps=100");
  CHECK(set_error(json, "=3").find("expected KEY=VALUE") != std::string::npos);
  CHECK(set_error(json, "a..b=3").find("--set a..b: a key is empty") == 0);
  CHECK(set_error(json, "n.x=3") == "n.x: n is 5, which has no keys");
  CHECK(set_error(json, "l.x=3") == "l.x: l is a list; give the number of an element");
  CHECK(set_error(json, "l.3=3") == "l.3: l has 3 elements, counted from 0");
  CHECK(set_error(json, "l.-1=3").find("give the number") != std::string::npos);
  std::string deep = "a";
  for (int i = 0; i < 100000; ++i) deep += ".a";
  CHECK(set_error(json, deep + "=1").size() < 200);
}

TEST_CASE("a preview is one line, short, and never ends inside a character") {
  CHECK(preview(Json{{"a", 1}}) == R"({"a":1})");
  std::string umlauts = "x";
  for (int i = 0; i < 100; ++i) umlauts += "ü";
  const std::string text = preview(Json(umlauts));
  CHECK(text.size() <= 64);
  CHECK_NOTHROW(Json(text).dump());
}

}  // namespace tessera
