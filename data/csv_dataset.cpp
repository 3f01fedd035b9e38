// Numeric tables: features to a class or to a number.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "tessera/config/registry.h"
#include "tessera/core/create.h"
#include "tessera/data/csv.h"
#include "tessera/data/dataset.h"
#include "tessera/data/gzip.h"

namespace tessera {

namespace {

struct CsvConfig {
  std::string path;
  std::string label;
  std::vector<std::string> features;
  std::string kind = "classification";
  std::string separator = ",";
  double validation_fraction = 0.1;
  double test_fraction = 0.1;
  bool shuffle = true;
  bool standardize = true;
  TESSERA_FIELDS(f)
  {
    f("path", path, "the table, with a header line; .gz or not");
    f("label", label, "column to predict; empty: the last one");
    f("features", features, "numeric columns to predict from; empty: all others");
    f("kind", kind, "what the label is").one_of({"classification", "regression"});
    f("separator", separator, "one character");
    f("validation_fraction", validation_fraction, "part of the rows").min(0.001).max(0.9);
    f("test_fraction", test_fraction, "part of the rows; 0: test is validation").min(0).max(0.9);
    f("shuffle", shuffle, "choose the parts by the seed; false: in the order of the file");
    f("standardize", standardize,
      "give each feature mean 0 and deviation 1 over the training rows");
  }
};

constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

bool is_missing(std::string_view text) {
  constexpr std::array<std::string_view, 6> marks = {"", "?", "NA", "N/A", "nan", "NaN"};
  return std::find(marks.begin(), marks.end(), text) != marks.end();
}

bool is_whole_number(const std::string& text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
}

float parse_number(std::string_view text, const std::string& file, const std::string& column,
                   size_t row) {
  const size_t from = std::min(text.find_first_not_of(' '), text.size());
  const size_t to = text.find_last_not_of(' ') + 1;
  text = text.substr(from, to > from ? to - from : 0);
  if (is_missing(text)) return kMissing;
  float value = 0;
  const char* begin = text.data() + (text.starts_with('+') ? 1 : 0);
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size() && std::isfinite(value),
        "{}: row {}: \"{}\" in column \"{}\" is no number; name the numeric columns in "
        "data.features",
        file, row + 1, text, column);
  return value;
}

struct CsvDataset : Dataset {
  using Config = CsvConfig;

  CsvDataset(const Config& c, const DataContext& context) : config_(c), seed_(context.seed) {
    check(c.separator.size() == 1, "data.separator: \"{}\" must be one character", c.separator);
    check(c.validation_fraction + c.test_fraction < 1,
          "data.validation_fraction: {} and test_fraction {} leave nothing to train on",
          c.validation_fraction, c.test_fraction);
    const std::string file = find_data(c.path, context, "data.path").string();
    const CsvTable table = parse_csv(read_maybe_gzip(file), file, c.separator[0]);
    rows_ = static_cast<int64_t>(table.rows.size());
    validation_ = std::lround(static_cast<double>(rows_) * c.validation_fraction);
    test_ = std::lround(static_cast<double>(rows_) * c.test_fraction);
    check(validation_ > 0 && rows_ - validation_ - test_ > 0, "{}: {} rows are too few to split",
          file, rows_);
    const size_t label =
        c.label.empty() ? table.header.size() - 1 : table.column(c.label, "data.label");
    read_features(table, label, file);
    read_labels(table, label, file);
    fill_missing();
  }

  DataInfo info() const override { return info_; }

  int64_t size(Split split) const override {
    if (split == Split::train) return rows_ - validation_ - test_;
    return split == Split::validation || test_ == 0 ? validation_ : test_;
  }

  Batch get(Split split, std::span<const int64_t> indices, uint64_t) const override {
    check_indices(indices, size(split), "csv");
    const auto count = static_cast<int64_t>(indices.size());
    const bool classes = info_.classes > 0;
    const Tensor features = empty({count, info_.features});
    const Tensor labels = empty({count}, {classes ? DType::i64 : DType::f32, {}});
    float* to = features.data<float>();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = row(split, indices[static_cast<size_t>(i)]);
      to = std::copy_n(features_.begin() + at * info_.features, info_.features, to);
      const float label = labels_[static_cast<size_t>(at)];
      if (classes)
        labels.data<int64_t>()[i] = static_cast<int64_t>(label);
      else
        labels.data<float>()[i] = label;
    }
    return {{"features", features}, {"labels", labels}};
  }

 private:
  // Training rows come first, then validation, then test.
  int64_t row(Split split, int64_t index) const {
    if (split != Split::train) index += size(Split::train);
    if (split == Split::test && test_ > 0) index += validation_;
    return config_.shuffle ? permuted_index(index, rows_, {seed_, 0}) : index;
  }

  void read_features(const CsvTable& table, size_t label, const std::string& file) {
    std::vector<size_t> columns;
    for (const auto& name : config_.features) {
      columns.push_back(table.column(name, "data.features"));
    }
    for (size_t i = 0; config_.features.empty() && i < table.header.size(); ++i) {
      if (i != label) columns.push_back(i);
    }
    check(!columns.empty(), "data.features: {} has no column beside the label", file);
    for (size_t r = 0; r < table.rows.size(); ++r) {
      for (size_t column : columns) {
        features_.push_back(parse_number(table.rows[r][column], file, table.header[column], r));
      }
    }
    info_.features = static_cast<int64_t>(columns.size());
  }

  void read_labels(const CsvTable& table, size_t label, const std::string& file) {
    if (config_.kind == "classification") return read_classes(table, label);
    for (size_t r = 0; r < table.rows.size(); ++r) {
      const float value = parse_number(table.rows[r][label], file, table.header[label], r);
      check(!std::isnan(value), "{}: row {}: the label is missing", file, r + 1);
      labels_.push_back(value);
    }
  }

  // Classes are the distinct texts of the column, sorted; whole numbers by their value.
  void read_classes(const CsvTable& table, size_t label) {
    auto& names = info_.class_names;
    for (const auto& fields : table.rows) names.push_back(fields[label]);
    const bool numbers = std::all_of(names.begin(), names.end(), is_whole_number);
    const auto before = [numbers](const std::string& a, const std::string& b) {
      return numbers && a.size() != b.size() ? a.size() < b.size() : a < b;
    };
    std::sort(names.begin(), names.end(), before);
    names.erase(std::unique(names.begin(), names.end()), names.end());
    check(names.size() >= 2 && names.size() <= 100'000,
          "data.label: column \"{}\" has {} different values; want 2 to 100000 classes",
          table.header[label], names.size());
    info_.classes = static_cast<int64_t>(names.size());
    for (const auto& fields : table.rows) {
      const auto found = std::lower_bound(names.begin(), names.end(), fields[label], before);
      labels_.push_back(static_cast<float>(found - names.begin()));
    }
  }

  // A missing value becomes the column's mean over the training rows.
  void fill_missing() {
    for (int64_t column = 0; column < info_.features; ++column) {
      const auto value = [&](int64_t r) -> float& {
        return features_[static_cast<size_t>(r * info_.features + column)];
      };
      double sum = 0, squares = 0, count = 0;
      for (int64_t i = 0; i < size(Split::train); ++i) {
        const double x = value(row(Split::train, i));
        if (std::isnan(x)) continue;
        sum += x;
        squares += x * x;
        count += 1;
      }
      const double mean = count > 0 ? sum / count : 0;
      const double variance = count > 0 ? std::max(0.0, squares / count - mean * mean) : 0;
      const double scale = config_.standardize && variance > 0 ? 1 / std::sqrt(variance) : 1;
      for (int64_t r = 0; r < rows_; ++r) {
        const double x = std::isnan(value(r)) ? mean : double{value(r)};
        value(r) = static_cast<float>(config_.standardize ? (x - mean) * scale : x);
      }
    }
  }

  Config config_;
  uint64_t seed_;
  int64_t rows_ = 0, validation_ = 0, test_ = 0;
  std::vector<float> features_;  // rows x features
  std::vector<float> labels_;
  DataInfo info_;
};
TESSERA_REGISTER(Dataset, CsvDataset, "csv", "A numeric table with a label column", "any CSV file");

}  // namespace

}  // namespace tessera
