#include "tessera/config/fields.h"

#include <doctest/doctest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "sample_configs.h"

namespace tessera {
namespace {

std::string error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

template <class C = Everything>
std::string read_error(const std::string& text, const std::string& path = "") {
  return error_of([&] { from_json<C>(parse_json(text, "text"), path); });
}

}  // namespace

TEST_CASE("an empty object gives the defaults") {
  CHECK(from_json<Everything>(Json::object()) == Everything{});
}

TEST_CASE("every field type is read") {
  const auto c = from_json<Everything>(parse_json(R"({
    "steps": 3, "rate": 0, "fast": true, "label": "ü", "limit": 7, "decay": null, "note": "long",
    "sizes": [1, 9], "weights": [1, 2.5], "tags": ["b", "c"], "head": {"bias": false},
    "extra": {"width": 2}, "layers": [{"width": 1}, {}], "expect": {"val_loss": {"max": 1.88}},
    "shaper": {"type": "wrap", "inner": {"radius": 2}}, "stack": ["round", {"type": "wrap"}],
    "raw": [1, {"x": null}], "bits": 4})",
                                                  "text"));
  CHECK(c.steps == 3);
  CHECK(c.rate == 0.0);
  CHECK(c.fast);
  CHECK(c.label == "ü");
  CHECK(c.limit == 7);
  CHECK(!c.decay);
  CHECK(c.note == "long");
  CHECK(c.sizes == std::vector<int64_t>{1, 9});
  CHECK(c.weights == std::vector<double>{1, 2.5});
  CHECK(c.tags == std::vector<std::string>{"b", "c"});
  CHECK(c.head == Layer{16, false});  // the outer default of what is not named stays
  CHECK(c.extra == Layer{2, true});
  CHECK(c.layers == std::vector<Layer>{{1, true}, {}});
  CHECK(c.expect.at("val_loss").max == 1.88);
  CHECK(c.shaper.config<WrapConfig>().inner.config<RoundConfig>().radius == 2);
  CHECK(c.stack.size() == 2);
  CHECK(c.stack[1].type() == "wrap");
  CHECK(c.raw.dump() == R"([1,{"x":null}])");
  CHECK(c.bits == 4);
}

TEST_CASE("whole numbers in any notation are integers and others are refused") {
  auto steps = [](const std::string& number) {
    return from_json<Everything>(parse_json("{\"steps\": " + number + "}", "text")).steps;
  };
  CHECK(steps("1000.0") == 1000);
  CHECK(steps("1e3") == 1000);
  CHECK(steps("9223372036854775807") == std::numeric_limits<int64_t>::max());
  for (const char* number :
       {"9223372036854775808", "1e19", "-1e30", "100000000000000000000", "-9223372036854775809"}) {
    CHECK(error_of([&] { steps(number); }).find("steps: expected an integer of 64 bits, got ") ==
          0);
  }
  CHECK(error_of([&] { steps("1.5"); }) == "steps: expected an integer, got 1.5");
  CHECK(error_of([&] { steps("true"); }) == "steps: expected an integer, got true");
}

TEST_CASE("an error names the path, the value seen and the way out") {
  CHECK(read_error(R"({"head": {"widht": 3}})", "model") ==
        "model.head.widht: unknown key; did you mean \"width\"?");
  CHECK(read_error(R"({"head": {"zzzzz": 3}})") == "head.zzzzz: unknown key; known: width, bias");
  CHECK(read_error(R"({"steps": -3})", "train") == "train.steps: -3 is below the minimum 1");
  CHECK(read_error(R"({"steps": "many"})", "train") ==
        "train.steps: expected an integer, got \"many\"");
  CHECK(read_error(R"({"steps": null})") == "steps: expected an integer, got null");
  CHECK(read_error(R"({"rate": 1})") == "rate: 1.0 is not below 1");
  CHECK(read_error(R"({"rate": "x"})") == "rate: expected a number, got \"x\"");
  CHECK(read_error(R"({"decay": 0})") == "decay: 0.0 is not above 0");
  CHECK(read_error(R"({"fast": 1})") == "fast: expected true or false, got 1");
  CHECK(read_error(R"({"label": 1})") == "label: expected a string, got 1");
  CHECK(read_error(R"({"weights": [1, 11]})") == "weights.1: 11.0 is above the maximum 10");
  CHECK(read_error(R"({"weights": 5})") == "weights: expected a list, got 5");
  CHECK(read_error(R"({"sizes": [1]})") == "sizes: [1] has 1 elements instead of 2");
  CHECK(read_error(R"({"sizes": [1, 0]})") == "sizes.1: 0 is below the minimum 1");
  CHECK(read_error(R"({"layers": [{}, {"width": 0}]})") ==
        "layers.1.width: 0 is below the minimum 1");
  CHECK(read_error(R"({"bits": 5})") == "bits: 5 is not one of 4, 8");
  CHECK(read_error(R"({"note": "shrot"})") ==
        R"(note: "shrot" is not one of "short", "long"; did you mean "short"?)");
  CHECK(read_error(R"({"expect": {"loss": {"min": 2, "max": 1}}})") ==
        "expect.loss: min 2 is above max 1");
  CHECK(read_error(R"({"expect": [1]})") == "expect: expected an object, got [1]");
  CHECK(read_error("3") == "config: expected an object, got 3");
}

TEST_CASE("numbers that are not finite are refused") {
  const Json json = {{"rate", std::nan("")}};
  CHECK_THROWS_WITH_AS(from_json<Everything>(json), doctest::Contains("a finite number"),
                       ConfigError);
}

TEST_CASE("keys and values with line breaks stay on one line of the message") {
  CHECK(read_error("{\"a\\nb\": 1}").find("a\\nb: unknown key") == 0);
  CHECK(read_error("{\"steps\": \"a\\nb\"}") == R"(steps: expected an integer, got "a\nb")");
}

TEST_CASE("a long value is cut in messages") {
  const std::string error = read_error("{\"steps\": \"" + std::string(1000, 'x') + "\"}");
  CHECK(error.size() < 120);
}

TEST_CASE("deep JSON made by a program is refused without recursion") {
  Json json = 1;
  for (int i = 0; i < 20000; ++i) {
    Json outer = Json::array();
    outer.push_back(std::move(json));
    json = std::move(outer);
  }
  Json root = Json::object();
  root["raw"] = std::move(json);
  CHECK_THROWS_WITH_AS(from_json<Everything>(root), doctest::Contains("nested deeper"),
                       ConfigError);
}

TEST_CASE("the full form lists every field in order and is a fixed point") {
  const Json json = to_json(Everything{});
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  Everything listed;
  Fields fields;
  listed.fields(fields);
  CHECK(keys == fields.names());
  CHECK(to_json(from_json<Everything>(json)).dump() == json.dump());
  CHECK(json["limit"].is_null());
  CHECK(json["shaper"].dump() == R"({"type":"round","radius":1.0,"mode":"fast"})");
}

TEST_CASE("a field listed twice is refused") {
  struct Twice {
    bool a = false;
    TESSERA_FIELDS(f)
    {
      f("a", a, "once");
      f("a", a, "twice");
    }
  };
  CHECK_THROWS_WITH_AS(to_json(Twice{}), "a: this field is listed twice", ConfigError);
}

TEST_CASE("the help table shows names, types, defaults, checks and documentation") {
  const std::string text = describe<Everything>("everything");
  CHECK(text.find("everything\n") == 0);
  for (const char* part :
       {"steps", "integer or null", "list of number", "≥ 0, < 1", "4 | 8", "head.width",
        "layers.N.bias", "expect.KEY.max", "most items; default 4 × steps", "2 elements",
        "\"round\"", "≥ 1, ≤ 4096", "map to object", "any JSON"}) {
    CAPTURE(part);
    CHECK(text.find(part) != std::string::npos);
  }
}

TEST_CASE("the columns of the help table are aligned") {
  const std::string text = describe<Layer>();
  CHECK(text ==
        "  name   type     default  checks       description\n"
        "  width  integer  8        ≥ 1, ≤ 4096  units\n"
        "  bias   boolean  true                  whether it has a bias\n");
}

TEST_CASE("the schema covers every field with type, default, bounds and documentation") {
  const Json json = schema<Everything>();
  CHECK(json["$schema"] == "https://json-schema.org/draft/2020-12/schema");
  CHECK(json["additionalProperties"] == false);
  const Json& properties = json["properties"];
  const Json defaults = to_json(Everything{});
  for (const auto& item : defaults.items()) {
    CAPTURE(item.key());
    REQUIRE(properties.contains(item.key()));
    CHECK(properties[item.key()]["default"] == item.value());
    CHECK(properties[item.key()]["description"].is_string());
  }
  CHECK(properties.size() == defaults.size());
  CHECK(properties["steps"]["type"] == "integer");
  CHECK(properties["steps"]["minimum"] == 1);
  CHECK(properties["rate"]["exclusiveMaximum"] == 1);
  CHECK(properties["bits"]["enum"] == Json({4, 8}));
  CHECK(properties["tags"]["items"]["enum"] == Json({"a", "b", "c"}));
  CHECK(properties["limit"]["anyOf"][0]["minimum"] == 1);
  CHECK(properties["sizes"]["minItems"] == 2);
  CHECK(properties["expect"]["additionalProperties"]["properties"].contains("max"));
  CHECK(parse_json(json.dump(), "schema") == json);
}

}  // namespace tessera
