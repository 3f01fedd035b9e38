#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <set>

#include "support.h"
#include "tessera/data/grammar.h"
#include "tessera/data/tokenizer.h"

using namespace tessera;

namespace {

std::vector<int64_t> row(const Tensor& x, int64_t i) {
  const auto all = x.to_vector<int64_t>();
  const auto width = x.size(1);
  return {all.begin() + i * width, all.begin() + (i + 1) * width};
}

}  // namespace

TEST_CASE("windows shift by one, overlap in training and tile in validation") {
  const ScratchFolder folder;
  std::string text;
  for (int i = 0; i < 100; ++i) text.push_back(static_cast<char>(i));
  folder.write("t.txt", text);
  const auto data = make_dataset(
      R"({"type": "text", "path": "t.txt", "tokenizer": {"type": "byte"}, "context": 4})",
      folder.path);
  CHECK(data->info().vocabulary == 256);
  CHECK(data->info().context == 4);
  CHECK(data->size(Split::train) == 86);
  CHECK(data->size(Split::validation) == 2);
  CHECK(data->size(Split::test) == 2);
  const Batch train = data->get(Split::train, std::vector<int64_t>{0, 85}, 0);
  CHECK(row(train.at("tokens"), 0) == std::vector<int64_t>{0, 1, 2, 3});
  CHECK(row(train.at("targets"), 0) == std::vector<int64_t>{1, 2, 3, 4});
  CHECK(row(train.at("targets"), 1) == std::vector<int64_t>{86, 87, 88, 89});
  const Batch validation = data->get(Split::validation, std::vector<int64_t>{0, 1}, 0);
  CHECK(row(validation.at("tokens"), 1) == std::vector<int64_t>{94, 95, 96, 97});
  CHECK_THROWS_WITH_AS(data->get(Split::train, std::vector<int64_t>{86}, 0),
                       doctest::Contains("index 86 is outside [0, 86)"), Error);
}

TEST_CASE("a folder of texts is read in order of names, and a test text stands apart") {
  const ScratchFolder folder;
  folder.write("texts/b.txt", "bbbbbbbbbbbbbbbbbbbb");
  folder.write("texts/a.txt", "aaaaaaaaaaaaaaaaaaaa");
  folder.write("texts/c.md", "not read");
  folder.write("test.txt", "\u00e9\u00e9\u00e9\u00e9");
  const auto data = make_dataset(
      R"({"type": "text", "path": "texts", "test_path": "test.txt", "context": 2})", folder.path);
  CHECK(data->info().vocabulary == 3);
  CHECK(data->size(Split::train) == 34);
  CHECK(data->size(Split::test) == 1);
  const auto tokens = data->get(Split::test, range(1), 0).at("tokens").to_vector<int64_t>();
  CHECK(data->tokenizer()->decode(tokens) == "\u00e9\u00e9");
}

TEST_CASE("a text of any length has the ids of the whole") {
  const ScratchFolder folder;
  std::string text((size_t{16} << 20) - 1, 'a');
  text += "\u00e9\u00e9" + std::string(1 << 20, 'a');
  folder.write("long.txt", text + "\u00e9");
  const auto at = static_cast<int64_t>(size_t{16} << 20) - 2;
  const char* config = R"({"type": "text", "path": "long.txt", "context": 4, "train_fraction": 0.99,
      "tokenizer": {"type": "char", "alphabet": [97, 233]}})";
  const auto data = make_dataset(config, folder.path);
  CHECK(data->size(Split::train) + 4 == (at + 4 + (1 << 20)) * 99 / 100);
  const Batch batch = data->get(Split::train, std::vector<int64_t>{at}, 0);
  CHECK(row(batch.at("tokens"), 0) == std::vector<int64_t>{0, 1, 1, 0});
  folder.write("long.txt", text + "b");
  CHECK_THROWS_WITH_AS(
      make_dataset(config, folder.path),
      doctest::Contains("data.path: counted from byte 16777215 of the text: char tokenizer: 'b'"),
      Error);
}

TEST_CASE("a text that is missing or too short says so") {
  const ScratchFolder folder;
  folder.write("short.txt", "0123456789");
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "text", "path": "short.txt"})", folder.path),
                       doctest::Contains("train split has 9 tokens, a window of context 64"),
                       Error);
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "text", "path": "none.txt"})", folder.path),
                       doctest::Contains("data.path: \"none.txt\" not found; looked at"), Error);
}

TEST_CASE("grammar text is the same for a seed and its verbs agree with their subjects") {
  const std::string text = grammar_text(50'000, 7);
  CHECK(text == grammar_text(50'000, 7));
  CHECK(text != grammar_text(50'000, 8));
  CHECK(text.size() >= 50'000);
  for (const char* wrong :
       {"every dogs", "many dog ", "some cat ", "a owl", "an dog", "A elephant"}) {
    CHECK(text.find(wrong) == std::string::npos);
  }
  for (const char* right : {"Every dog ", "an owl", "that ", "these "}) {
    CHECK(text.find(right) != std::string::npos);
  }
}

TEST_CASE("the grammar dataset has fresh text in each split") {
  const auto data = make_dataset(
      R"({"type": "grammar", "train_size": 5000, "validation_size": 2000, "context": 32})");
  CHECK(data->info().vocabulary > 30);
  CHECK(data->size(Split::train) >= 5000 - 32);
  const auto text = [&](Split split) {
    return data->tokenizer()->decode(
        data->get(split, range(1), 0).at("tokens").to_vector<int64_t>());
  };
  CHECK(text(Split::train) != text(Split::validation));
  CHECK(text(Split::test) != text(Split::validation));
}

TEST_CASE("mqar: every query's key stands in the prefix with the target behind it") {
  const auto data =
      make_dataset(R"({"type": "mqar", "vocabulary": 128, "context": 64, "pairs": 8})");
  CHECK(data->size(Split::train) == kEndless);
  const Batch batch = data->get(Split::train, range(200), 0);
  for (int64_t i = 0; i < 200; ++i) {
    const auto tokens = row(batch.at("tokens"), i), targets = row(batch.at("targets"), i);
    std::map<int64_t, int64_t> pairs;
    std::set<int64_t> values;
    for (size_t k = 0; k < 16; k += 2) {
      REQUIRE((tokens[k] >= 1 && tokens[k] < 64));
      REQUIRE((tokens[k + 1] >= 64 && tokens[k + 1] < 128));
      pairs[tokens[k]] = tokens[k + 1];
      values.insert(tokens[k + 1]);
    }
    REQUIRE(pairs.size() == 8);
    REQUIRE(values.size() == 8);
    int64_t scored = 0;
    for (size_t t = 0; t < 64; ++t) {
      if (targets[t] < 0) {
        REQUIRE((t < 16 || tokens[t] == 0));
        continue;
      }
      REQUIRE((t >= 16 && t % 2 == 0));
      REQUIRE(pairs.at(tokens[t]) == targets[t]);
      ++scored;
    }
    REQUIRE(scored == 8);
  }
}

TEST_CASE("mqar: slots follow the power law, examples differ and reproduce") {
  const std::string config = R"({"type": "mqar", "context": 64, "pairs": 1, "power": 0.5})";
  const auto data = make_dataset(config);
  std::vector<double> histogram(31);
  const int64_t count = 20'000;
  const Batch batch = data->get(Split::train, range(count), 0);
  const auto targets = batch.at("targets").to_vector<int64_t>();
  for (size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] >= 0) histogram[(i % 64 - 2) / 2] += 1.0 / static_cast<double>(count);
  }
  double total = 0;
  for (int s = 1; s <= 31; ++s) total += 0.5 / std::sqrt(s);
  for (int s = 1; s <= 31; ++s) {
    CHECK(histogram[static_cast<size_t>(s - 1)] ==
          doctest::Approx(0.5 / std::sqrt(s) / total).epsilon(0.15));
  }
  const auto again = make_dataset(config)->get(Split::train, range(3), 9).at("tokens");
  CHECK(row(again, 2) == row(batch.at("tokens"), 2));
  CHECK(row(again, 1) != row(again, 2));
  const auto other = make_dataset(config, ".", 2)->get(Split::train, range(3), 9).at("tokens");
  CHECK(row(again, 2) != row(other, 2));
}

TEST_CASE("mqar: settings that do not fit are refused") {
  const auto refused = [](const char* config, const char* why) {
    CHECK_THROWS_WITH_AS(make_dataset(config), doctest::Contains(why), Error);
  };
  refused(R"({"type": "mqar", "context": 63})", "data.context: 63 must be even");
  refused(R"({"type": "mqar", "vocabulary": 64})", "data.vocabulary: 64 must be above");
  refused(R"({"type": "mqar", "pairs": 17})", "data.pairs: 17 pairs");
}

TEST_CASE(
    "recall_sparse: the last token is a key whose value stands behind it, all else is noise") {
  const auto data = make_dataset(R"({"type": "recall_sparse", "context": 20, "pairs": 4})");
  CHECK(data->info().vocabulary == 64);
  const Batch batch = data->get(Split::validation, range(300), 0);
  for (int64_t i = 0; i < 300; ++i) {
    const auto tokens = row(batch.at("tokens"), i), targets = row(batch.at("targets"), i);
    REQUIRE(std::count(targets.begin(), targets.end(), -1) == 19);
    REQUIRE(std::count_if(tokens.begin(), tokens.end(), [](int64_t t) { return t >= 48; }) == 9);
    const auto key = std::find(tokens.begin(), tokens.end(), tokens[19]);
    REQUIRE((*key >= 48 && *key < 56 && key < tokens.end() - 2));
    REQUIRE((targets[19] >= 56 && key[1] == targets[19]));
  }
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "recall_sparse", "context": 8})"),
                       doctest::Contains("data.pairs: 4 pairs and 1 questions need 9"), Error);
}

TEST_CASE("recall_sparse: questions follow one another; training may score all of the text") {
  const auto data = make_dataset(
      R"({"type": "recall_sparse", "context": 24, "questions": 3, "score_text": true})");
  const Batch batch = data->get(Split::validation, range(50), 0);
  const Batch train = data->get(Split::train, range(50), 0);
  for (int64_t i = 0; i < 50; ++i) {
    const auto tokens = row(batch.at("tokens"), i), targets = row(batch.at("targets"), i);
    REQUIRE(std::count(targets.begin(), targets.end(), -1) == 21);
    for (size_t at : {19u, 21u, 23u}) {
      const auto key = std::find(tokens.begin(), tokens.end(), tokens[at]);
      REQUIRE((key < tokens.begin() + 19 && key[1] == targets[at]));
      if (at < 23) REQUIRE(tokens[at + 1] == targets[at]);
    }
    const auto all = row(train.at("tokens"), i), next = row(train.at("targets"), i);
    REQUIRE(std::equal(all.begin() + 1, all.end(), next.begin()));
    REQUIRE(next[23] >= 56);
  }
}

TEST_CASE("needle: the last position asks for a key whose value stands behind it") {
  const auto data = make_dataset(R"({"type": "needle", "needles": 4, "context": 14})");
  const Batch batch = data->get(Split::validation, range(300), 0);
  for (int64_t i = 0; i < 300; ++i) {
    const auto tokens = row(batch.at("tokens"), i), targets = row(batch.at("targets"), i);
    REQUIRE(std::count(tokens.begin(), tokens.end(), 0) == 4);
    REQUIRE(std::count(targets.begin(), targets.end(), -1) == 13);
    REQUIRE(tokens[12] == 1);
    const auto key = std::find(tokens.begin(), tokens.end(), tokens[13]);
    REQUIRE(key < tokens.end() - 2);
    REQUIRE(key[-1] == 0);
    REQUIRE(key[1] == targets[13]);
  }
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "needle", "needles": 5, "context": 14})"),
                       doctest::Contains("data.needles: 5 needles"), Error);
}
