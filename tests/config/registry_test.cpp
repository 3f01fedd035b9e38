#include "tessera/config/registry.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>

#include "sample_configs.h"

namespace tessera {
namespace {

template <class C>
std::string read_error(const std::string& text, const std::string& path = "") {
  try {
    from_json<C>(parse_json(text, "text"), path);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

Choice<Shaper> shaper(const std::string& text) {
  return from_json<Choice<Shaper>>(parse_json(text, "text"));
}

}  // namespace

TEST_CASE("a choice builds the class that its type names") {
  int built = 0;
  CHECK(shaper(R"({"type": "round", "radius": 2.5})").build(built, "")->name() == "round 2.5");
  CHECK(shaper(R"("round")").build(built, "")->name() == "round 1");
  CHECK(shaper(R"({"type": "wrap", "inner": {"type": "wrap", "inner": "round"}})")
            .build(built, "")
            ->name() == "wrapped wrapped round 1");
  CHECK(built == 5);
}

TEST_CASE("without a type the declared one is meant, with its declared config") {
  struct Config {
    Choice<Shaper> shaper{"round"};
    Config() { shaper.config<RoundConfig>().radius = 7; }
    TESSERA_FIELDS(f)
    { f("shaper", shaper, "what shapes"); }
  };
  const auto config = from_json<Config>(Json{{"shaper", {{"mode", "exact"}}}});
  CHECK(config.shaper.config<RoundConfig>() == RoundConfig{7, "exact"});
  CHECK(from_json<Config>(Json{{"shaper", "wrap"}}).shaper.type() == "wrap");
}

TEST_CASE("copies of a choice are independent") {
  Choice<Shaper> a{"round"};
  Choice<Shaper> b = a;
  b.config<RoundConfig>().radius = 3;
  CHECK(std::as_const(a).config<RoundConfig>().radius == 1);
  a = b;
  b.config<RoundConfig>().radius = 4;
  CHECK(a.config<RoundConfig>().radius == 3);
  CHECK(!(a == b));
  b.config<RoundConfig>().radius = 3;
  CHECK(a == b);
}

TEST_CASE("a choice that cannot be made tells what is known") {
  CHECK(read_error<NeedsShaper>(R"({"shaper": {"type": "ruond"}})") ==
        "shaper.type: unknown shaper \"ruond\"; did you mean \"round\"? "
        "(known: round, wrap)");
  CHECK(read_error<NeedsShaper>(R"({"shaper": "qqqqqq"})") ==
        "shaper: unknown shaper \"qqqqqq\" (known: round, wrap)");
  CHECK(read_error<NeedsShaper>("{}", "model") ==
        "model.shaper: missing; give {\"type\": …} (known: round, wrap)");
  CHECK(read_error<NeedsShaper>(R"({"shaper": {}})") == "shaper.type: missing; known: round, wrap");
  CHECK(read_error<NeedsShaper>(R"({"shaper": {"type": 3}})") ==
        "shaper.type: expected a string, got 3");
  CHECK(read_error<NeedsShaper>(R"({"shaper": null})").find("shaper: expected the name of") == 0);
  CHECK(read_error<NeedsShaper>(R"({"shaper": {"type": "round", "raduis": 1}})") ==
        "shaper.raduis: unknown key; did you mean \"radius\"?");
  CHECK(read_error<NeedsShaper>(R"({"shaper": {"type": "wrap", "inner": {"radius": 0}}})") ==
        "shaper.inner.radius: 0.0 is not above 0");
}

TEST_CASE("asking a choice for another config or for nothing chosen is an error") {
  Choice<Shaper> none;
  int built = 0;
  CHECK_THROWS_WITH_AS(none.build(built, ""), doctest::Contains("nothing is chosen"), ConfigError);
  Choice<Shaper> round{"round"};
  CHECK_THROWS_WITH_AS(round.config<WrapConfig>(), doctest::Contains("another type"), ConfigError);
  Choice<Shaper> unknown{"rond"};
  CHECK_THROWS_WITH_AS(unknown.build(built, ""), doctest::Contains("did you mean"), ConfigError);
}

TEST_CASE("a default that chooses itself without end is refused") {
  const char* message = "does a default choose itself?";
  CHECK_THROWS_WITH_AS(from_json<EndlessConfig>(Json::object()), doctest::Contains(message),
                       ConfigError);
  CHECK_THROWS_WITH_AS(to_json(EndlessConfig{}), doctest::Contains(message), ConfigError);
  CHECK_THROWS_WITH_AS(schema<EndlessConfig>(), doctest::Contains(message), ConfigError);
}

TEST_CASE("a name registered twice is refused and both classes are named") {
  Entry entry;
  entry.kind = "shaper";
  entry.name = "round";
  entry.registered_at = "Circle in circle.cpp";
  try {
    add_entry(entry);
    FAIL("no error");
  } catch (const ConfigError& error) {
    const std::string what = error.what();
    CHECK(what.find("shaper: \"round\" is registered twice, by Round in ") == 0);
    CHECK(what.find("by Circle in circle.cpp") != std::string::npos);
  }
}

TEST_CASE("all that is registered can be listed, found and described") {
  const auto all = all_registries();
  const auto info = std::find_if(all.begin(), all.end(), [](const RegistryInfo& registry) {
    return registry.kind == "shaper";
  });
  REQUIRE(info != all.end());
  REQUIRE(info->entries.size() == 2);
  CHECK(info->entries[0].name == "round");
  CHECK(info->entries[0].source == "Euclid");
  CHECK(info->entries[0].default_json().dump() == R"({"type":"round","radius":1.0,"mode":"fast"})");
  CHECK(find_entries("wrap").size() == 1);
  CHECK(find_entries("nothing").empty());
  CHECK(registered_names("nothing").empty());
}

TEST_CASE("a description tells what is not supported and why") {
  const Entry wrap = find_entries("wrap").at(0);
  CHECK(wrap.unsupported("decode") == "it looks both ways");
  CHECK(!wrap.unsupported("causal"));
  CHECK(wrap.describe() ==
        "wrap (shaper): Wraps another shaper\n\n"
        "  name   type    default  checks  description\n"
        "  inner  shaper  \"round\"          what is wrapped\n\n"
        "not supported:\n  decode: it looks both ways\n");
}

TEST_CASE("the schema of a choice is one of the registered types, each with its own fields") {
  const Json round = find_entries("round").at(0).schema();
  CHECK(round["properties"]["type"]["const"] == "round");
  CHECK(round["properties"]["radius"]["exclusiveMinimum"] == 0);
  const Json needs = schema<NeedsShaper>();
  CHECK(needs["required"] == Json({"shaper"}));
  CHECK(needs["properties"]["shaper"]["$ref"] == "#/$defs/shaper");
  const Json& defs = needs["$defs"];
  CHECK(defs["shaper"]["oneOf"].size() == 3);  // a bare name, or one of two objects
  CHECK(defs["shaper"]["oneOf"][1]["$ref"] == "#/$defs/shaper.round");
  CHECK(defs["shaper.round"]["properties"]["mode"]["enum"] == Json({"fast", "exact"}));
  CHECK(defs["shaper.wrap"]["properties"]["inner"]["anyOf"][0]["$ref"] == "#/$defs/shaper");
}

}  // namespace tessera
