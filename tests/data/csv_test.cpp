#include "tessera/data/csv.h"

#include <doctest/doctest.h>

#include <cmath>

#include "support.h"

using namespace tessera;

TEST_CASE("CSV fields may be quoted, empty and broken over lines") {
  const CsvTable table = parse_csv(
      "\xEF\xBB\xBF"
      "a,b,\"c\"\r\n1,,\"x, \"\"y\"\"\nz\"\n\n,2,\r\n",
      "t.csv");
  CHECK(table.header == std::vector<std::string>{"a", "b", "c"});
  REQUIRE(table.rows.size() == 2);
  CHECK(table.rows[0] == std::vector<std::string>{"1", "", "x, \"y\"\nz"});
  CHECK(table.rows[1] == std::vector<std::string>{"", "2", ""});
  CHECK(parse_csv("a;b\n1;2", "t.csv", ';').rows[0] == std::vector<std::string>{"1", "2"});
}

TEST_CASE("a broken CSV is refused with its place") {
  const auto refused = [](const char* text, const char* why) {
    CHECK_THROWS_WITH_AS(parse_csv(text, "t.csv"), doctest::Contains(why), Error);
  };
  refused("", "t.csv: byte 0: the table is empty");
  refused("a,b\n1,2\n3\n", "t.csv: byte 8: the row has 1 fields, the header 2");
  refused("a,b\n1,\"2\n", "t.csv: byte 6: the quote is never closed");
  refused("a,b\n1,\"2\"x\n", "t.csv: byte 9: text behind a closing quote");
}

TEST_CASE("a mutated CSV is read or refused") {
  const std::string good = "a,b,c\n1,\"x\ny\",3\n4,5,\"6\"\"\"\n7,8,9\n";
  for (uint64_t i = 0; i < 500; ++i) {
    try {
      parse_csv(mutate(good, i), "t.csv");
    } catch (const Error& e) {
      CHECK(std::string(e.what()).starts_with("t.csv: byte "));
    }
  }
}

TEST_CASE("a table trains a classifier on standardised features, missing values at the mean") {
  const ScratchFolder folder;
  std::string text = "x,y,kind\n";
  for (int i = 0; i < 20; ++i) {
    text += std::to_string(i) + (i == 3 ? ",," : ",5,") + (i % 2 ? "odd\n" : "even\n");
  }
  folder.write("t.csv", text);
  const auto data = make_dataset(
      R"({"type": "csv", "path": "t.csv", "shuffle": false, "test_fraction": 0.2})", folder.path);
  CHECK(data->size(Split::train) == 14);
  CHECK(data->size(Split::validation) == 2);
  CHECK(data->size(Split::test) == 4);
  CHECK(data->info().features == 2);
  CHECK(data->info().class_names == std::vector<std::string>{"even", "odd"});
  const Batch batch = data->get(Split::train, range(14), 0);
  const auto x = batch.at("features").to_vector<float>();
  double mean = 0, square = 0;
  for (size_t i = 0; i < 14; ++i) {
    mean += x[2 * i] / 14;
    square += x[2 * i] * x[2 * i] / 14;
    CHECK(x[2 * i + 1] == doctest::Approx(0));
  }
  CHECK(mean == doctest::Approx(0).epsilon(1e-6));
  CHECK(square == doctest::Approx(1));
  CHECK(data->get(Split::test, range(2), 0).at("labels").to_vector<int64_t>() ==
        std::vector<int64_t>{0, 1});
}

TEST_CASE("classes that are whole numbers stand in the order of their values") {
  const ScratchFolder folder;
  std::string text = "x,y\n";
  for (int i = 0; i < 12; ++i) text += "1," + std::to_string(i) + "\n";
  folder.write("t.csv", text);
  const auto data = make_dataset(R"({"type": "csv", "path": "t.csv"})", folder.path);
  CHECK(data->info().class_names[2] == "2");
  CHECK(data->info().class_names[11] == "11");
}

TEST_CASE("a regression keeps its labels as numbers, shuffled parts are disjoint") {
  const ScratchFolder folder;
  std::string text = "y,x\n";
  for (int i = 0; i < 10; ++i) text += std::to_string(i) + ".5,1\n";
  folder.write("t.csv", text);
  const auto data = make_dataset(
      R"({"type": "csv", "path": "t.csv", "label": "y", "kind": "regression"})", folder.path);
  double sum = 0;
  for (Split split : {Split::train, Split::validation, Split::test}) {
    for (float y : data->get(split, range(data->size(split)), 0).at("labels").to_vector<float>()) {
      sum += y;
    }
  }
  CHECK(sum == doctest::Approx(50));
}

TEST_CASE("a table that does not fit its config says what does not") {
  const ScratchFolder folder;
  folder.write("t.csv", "a,b\n1,x\n2,y\n3,x\nz,y\n");
  const auto refused = [&](const std::string& more, const char* why) {
    const std::string config =
        R"({"type": "csv", "path": "t.csv", "validation_fraction": 0.3)" + more + "}";
    CHECK_THROWS_WITH_AS(make_dataset(config, folder.path), doctest::Contains(why), Error);
  };
  refused("", "t.csv: row 4: \"z\" in column \"a\" is no number");
  refused(R"(, "label": "c")", "data.label: no column \"c\"; the file has a, b");
  refused(R"(, "separator": "")", "data.separator");
  refused(R"(, "test_fraction": 0.8)", "leave nothing to train on");
}

TEST_CASE("the ETTh1 table and the Criteo sample with its missing values load") {
  if (data_folder("ett")) {
    const auto data = make_dataset(R"({"type": "csv", "path": "ett/ETTh1.csv", "label": "OT",
        "features": ["HUFL", "HULL"], "kind": "regression", "shuffle": false})");
    CHECK(data->size(Split::train) + data->size(Split::validation) + data->size(Split::test) ==
          17420);
  }
  if (data_folder("ctr_samples")) {
    const auto data = make_dataset(R"({"type": "csv", "path": "ctr_samples/criteo_sample.txt",
        "label": "label", "features": ["I1", "I2", "I3"]})");
    CHECK(data->info().classes == 2);
    for (float x : data->get(Split::train, range(20), 0).at("features").to_vector<float>()) {
      CHECK(std::isfinite(x));
    }
  }
}
