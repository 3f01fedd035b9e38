// Users and items with two targets: was it watched, and how was it rated.
#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "tessera/config/registry.h"
#include "tessera/core/create.h"
#include "tessera/data/csv.h"
#include "tessera/data/dataset.h"
#include "tessera/data/gzip.h"

namespace tessera {

namespace {

struct TwoTaskConfig {
  std::string source = "generated";
  std::string path;
  int64_t users = 300;
  int64_t items = 200;
  int64_t pairs = 60'000;
  int64_t groups = 8;
  int64_t latent = 4;
  double noise = 0.3;
  int64_t negatives = 1;
  std::vector<std::string> targets = {"watch", "rating"};
  TESSERA_FIELDS(f)
  {
    f("source", source,
      "generated: groups of users with bilinear tastes; movielens: a folder with ratings.csv; "
      "csv: folders of tables without header lines")
        .one_of({"generated", "movielens", "csv"});
    f("path", path, "the folder, of movielens and csv");
    f("users", users, "generated users").min(1).max(1 << 24);
    f("items", items, "generated items").min(1).max(1 << 24);
    f("pairs", pairs, "generated pairs of user and item, all different").min(10).max(1 << 28);
    f("groups", groups, "hidden groups of users").min(1).max(1 << 16);
    f("latent", latent, "numbers that describe a user or an item").min(1).max(1024);
    f("noise", noise, "deviation of the noise on a generated taste of deviation 1").min(0);
    f("negatives", negatives, "of movielens: unwatched pairs drawn per watched one")
        .min(1)
        .max(100);
    f("targets", targets, "of csv: names of the watch and the rating table").size(2);
  }
};

struct Rating {
  int64_t user = 0;
  int64_t item = 0;
  float watch = 0;   // 0 or 1
  float rating = 0;  // 0: not rated
};
using Ratings = std::vector<Rating>;

// Part of the rows by a shuffle: 10 % test, an eighth of the rest validation.
void add_split(std::array<Ratings, 3>& splits, const Ratings& rows, RandomKey key) {
  const auto count = static_cast<int64_t>(rows.size());
  const int64_t test = count / 10, validation = (count - test) / 8;
  for (int64_t i = 0; i < count; ++i) {
    const size_t split = i < test ? 2 : i < test + validation ? 1 : 0;
    splits[split].push_back(rows[static_cast<size_t>(permuted_index(i, count, key))]);
  }
}

std::vector<double> normals(int64_t count, Generator& random) {
  std::vector<double> list(static_cast<size_t>(count));
  for (double& x : list) x = random.normal();
  return list;
}

// xᵀ M y / d for vectors of d numbers.
double bilinear(const double* x, const double* m, const double* y, int64_t d) {
  double total = 0;
  for (int64_t i = 0; i < d; ++i) {
    for (int64_t j = 0; j < d; ++j) total += x[i] * m[i * d + j] * y[j];
  }
  return total / static_cast<double>(d);
}

// Every user belongs to a group with two matrices M, N: watched where pᵀMq + noise > 0, and then
// rated 3 + pᵀNq + noise in halves from 0.5 to 5.
Ratings generate(const TwoTaskConfig& c, uint64_t seed) {
  check(c.pairs <= c.users * c.items, "data.pairs: {} users and {} items have no {} pairs", c.users,
        c.items, c.pairs);
  Generator random(seed, 1);
  const int64_t d = c.latent;
  const auto users = normals(c.users * d, random), items = normals(c.items * d, random);
  const auto watch = normals(c.groups * d * d, random), rate = normals(c.groups * d * d, random);
  std::vector<int64_t> group(static_cast<size_t>(c.users));
  for (int64_t& g : group) g = random.below(c.groups);
  Ratings rows;
  for (int64_t i = 0; i < c.pairs; ++i) {
    const int64_t pair = permuted_index(i, c.users * c.items, {seed, 2});
    Rating r{.user = pair / c.items, .item = pair % c.items};
    const double* p = users.data() + r.user * d;
    const double* q = items.data() + r.item * d;
    const int64_t at = group[static_cast<size_t>(r.user)] * d * d;
    const double taste = bilinear(p, watch.data() + at, q, d) + c.noise * random.normal();
    const double stars = 3 + bilinear(p, rate.data() + at, q, d) + c.noise * random.normal();
    r.watch = taste > 0 ? 1 : 0;
    if (taste > 0) r.rating = static_cast<float>(std::clamp(std::round(2 * stars) / 2, 0.5, 5.0));
    rows.push_back(r);
  }
  return rows;
}

double number(std::string_view text, const std::string& file, size_t row) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check(error == std::errc() && end == text.data() + text.size() && std::isfinite(value),
        "{}: row {}: \"{}\" is no number", file, row + 1, text);
  return value;
}

int64_t whole(std::string_view text, const std::string& file, size_t row) {
  const double value = number(text, file, row);
  check(value >= 0 && value < 1e9 && value == std::floor(value), "{}: row {}: \"{}\" is no id",
        file, row + 1, text);
  return static_cast<int64_t>(value);
}

// Ids in the order in which they occur.
class Numbering {
 public:
  int64_t of(int64_t id) { return map_.try_emplace(id, size()).first->second; }
  int64_t size() const { return static_cast<int64_t>(map_.size()); }

 private:
  std::map<int64_t, int64_t> map_;
};

Ratings read_movielens(const std::filesystem::path& folder, int64_t& users, int64_t& items) {
  const std::string file = (folder / "ratings.csv").string();
  const CsvTable table = parse_csv(read_maybe_gzip(file), file);
  check(table.header.size() >= 3, "{}: columns user, item, rating were expected, got {}", file,
        fmt::join(table.header, ", "));
  Numbering user, item;
  Ratings rows;
  for (size_t i = 0; i < table.rows.size(); ++i) {
    const auto& fields = table.rows[i];
    rows.push_back({user.of(whole(fields[0], file, i)), item.of(whole(fields[1], file, i)), 1,
                    static_cast<float>(number(fields[2], file, i))});
  }
  users = user.size();
  items = item.size();
  return rows;
}

// For every watched pair `count` items that its user has not watched (of those who have watched
// nearly all, fewer).
Ratings draw_negatives(const Ratings& watched, int64_t items, int64_t count, uint64_t seed) {
  std::set<std::pair<int64_t, int64_t>> taken;
  for (const Rating& r : watched) taken.emplace(r.user, r.item);
  Generator random(seed, 3);
  Ratings rows;
  for (const Rating& r : watched) {
    for (int64_t n = 0; n < count; ++n) {
      for (int attempt = 0; attempt < 100; ++attempt) {
        const int64_t item = random.below(items);
        if (!taken.emplace(r.user, item).second) continue;
        rows.push_back({.user = r.user, .item = item});
        break;
      }
    }
  }
  return rows;
}

std::vector<std::vector<std::string>> read_rows(const std::filesystem::path& path, size_t columns) {
  CsvTable table = parse_csv(read_maybe_gzip(path), path.string());
  check(table.header.size() == columns, "{}: {} columns were expected, got {}", path.string(),
        columns, table.header.size());
  table.rows.insert(table.rows.begin(), table.header);  // there is no header line
  return std::move(table.rows);
}

Ratings read_tables(const std::filesystem::path& folder, const TwoTaskConfig& c,
                    const std::string& split) {
  const auto path = [&](const std::string& stem) {
    return folder / stem.substr(0, stem.size() - 1 - split.size()) / (stem + ".csv");
  };
  const auto features_path = path("shared_features_" + split);
  const auto features = read_rows(features_path, 2);
  Ratings rows(features.size());
  for (size_t t = 0; t < 2; ++t) {
    const auto file = path(c.targets[t] + "_targets_" + split);
    const auto values = read_rows(file, 1);
    check(values.size() == rows.size(), "{}: {} rows, but {} has {}", file.string(), values.size(),
          features_path.string(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      (t == 0 ? rows[i].watch : rows[i].rating) =
          static_cast<float>(number(values[i][0], file.string(), i));
    }
  }
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].user = whole(features[i][0], features_path.string(), i);
    rows[i].item = whole(features[i][1], features_path.string(), i);
  }
  return rows;
}

struct TwoTaskRatings : Dataset {
  using Config = TwoTaskConfig;

  TwoTaskRatings(const Config& c, const DataContext& context) {
    info_.users = c.users;
    info_.items = c.items;
    if (c.source == "generated") {
      add_split(splits_, generate(c, context.seed), {context.seed, 4});
    } else if (c.source == "movielens") {
      const auto folder = find_data(c.path, context, "data.path");
      const Ratings watched = read_movielens(folder, info_.users, info_.items);
      add_split(splits_, watched, {context.seed, 4});
      add_split(splits_, draw_negatives(watched, info_.items, c.negatives, context.seed),
                {context.seed, 5});
    } else {
      read_csv(find_data(c.path, context, "data.path"), c);
    }
    check(!splits_[0].empty() && !splits_[1].empty() && !splits_[2].empty(),
          "data.two_task_ratings: too few pairs to split");
  }

  DataInfo info() const override { return info_; }
  int64_t size(Split split) const override { return static_cast<int64_t>(of(split).size()); }

  Batch get(Split split, std::span<const int64_t> indices, uint64_t) const override {
    check_indices(indices, size(split), "two_task_ratings");
    const Shape shape{static_cast<int64_t>(indices.size())};
    const Tensor users = empty(shape, {DType::i64, {}}), items = empty(shape, {DType::i64, {}});
    const Tensor watch = empty(shape), rating = empty(shape);
    for (size_t i = 0; i < indices.size(); ++i) {
      const Rating& r = of(split)[static_cast<size_t>(indices[i])];
      users.data<int64_t>()[i] = r.user;
      items.data<int64_t>()[i] = r.item;
      watch.data<float>()[i] = r.watch;
      rating.data<float>()[i] = r.rating;
    }
    return {{"users", users}, {"items", items}, {"watch", watch}, {"rating", rating}};
  }

 private:
  const Ratings& of(Split split) const { return splits_[static_cast<size_t>(split)]; }

  void read_csv(const std::filesystem::path& folder, const Config& c) {
    const std::array<std::string, 3> names = {"train", "val", "test"};
    info_.users = info_.items = 0;
    for (size_t s = 0; s < 3; ++s) {
      splits_[s] = read_tables(folder, c, names[s]);
      for (const Rating& r : splits_[s]) {
        info_.users = std::max(info_.users, r.user + 1);
        info_.items = std::max(info_.items, r.item + 1);
      }
    }
  }

  std::array<Ratings, 3> splits_;  // by Split
  DataInfo info_;
};
TESSERA_REGISTER(Dataset, TwoTaskRatings, "two_task_ratings",
                 "Users and items: watched or not, and the rating",
                 "generated; MovieLens (Harper & Konstan 2015); Ibrahim et al. 2023, COMET");

}  // namespace

}  // namespace tessera
