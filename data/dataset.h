// What training reads: a dataset answers batches by index, deterministically.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/config/fields.h"
#include "tessera/core/random.h"
#include "tessera/core/tensor.h"

namespace tessera {

struct Tokenizer;
struct TransformList;

enum class Split { train, validation, test };
std::string to_string(Split split);            // "train", "validation", "test"
Split split_from_name(std::string_view text);  // throws Error naming the valid ones

// Named tensors on the CPU. Text: "tokens" and "targets" (B, T) i64, target −1 where nothing is
// scored. Images: "images" (B, C, H, W) f32 with "labels" (B) i64, and "soft_targets" (B, classes)
// f32, rows summing to 1, where images were mixed. Tables: "features" (B, columns) f32 and "labels"
// (B), i64 for classes and f32 for a regression. Ratings: "users" and "items" (B) i64, "watch" (0
// or 1) and "rating" (0: none) (B) f32.
using Batch = std::map<std::string, Tensor>;

// What a model must know to fit; zero where it does not apply.
struct DataInfo {
  int64_t vocabulary = 0;
  int64_t context = 0;
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;
  int64_t classes = 0;
  int64_t features = 0;
  int64_t users = 0;
  int64_t items = 0;
  std::vector<std::string> class_names = {};

  TESSERA_FIELDS(f)
  {
    f("vocabulary", vocabulary, "tokens").min(0).max(1 << 24);
    f("context", context, "tokens in a sequence").min(0).max(1 << 24);
    f("channels", channels, "of an image").min(0).max(1 << 24);
    f("height", height, "of an image").min(0).max(1 << 24);
    f("width", width, "of an image").min(0).max(1 << 24);
    f("classes", classes, "of labels").min(0).max(1 << 24);
    f("features", features, "columns of a table").min(0).max(1 << 24);
    f("users", users, "who rates").min(0).max(1 << 30);
    f("items", items, "what is rated").min(0).max(1 << 30);
    f("class_names", class_names, "in the order of their labels");
  }
};

// What a dataset is built in: the folder of its config file and the seed of generated data.
struct DataContext {
  std::filesystem::path base;
  uint64_t seed = 1;
};

// An absolute path as it is; a relative one beside the config (`base`), then in $TESSERA_DATA_DIR.
// `key` begins the error, which lists where it looked.
std::filesystem::path find_data(const std::string& path, const DataContext& context,
                                const std::string& key);

// What a folder holds, sorted by name. Throws Error when it cannot be read.
std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder);

// The size of a generated training split that never repeats.
constexpr int64_t kEndless = int64_t{1} << 40;

struct Dataset {
  static constexpr const char* kKind = "dataset";
  using Build = std::unique_ptr<Dataset>(const DataContext&);

  virtual ~Dataset() = default;
  virtual DataInfo info() const = 0;
  virtual int64_t size(Split split) const = 0;
  // The elements `indices`, each in [0, size(split)), stacked in that order. `seed` keys the
  // augmentation: element i draws from mix(seed, i), so the same call gives the same batch. Safe to
  // call from several threads.
  virtual Batch get(Split split, std::span<const int64_t> indices, uint64_t seed) const = 0;

  virtual const Tokenizer* tokenizer() const { return nullptr; }       // of a text dataset
  virtual const TransformList* transforms() const { return nullptr; }  // of an image dataset
};

// Throws Error naming `op` when an index is outside [0, size).
void check_indices(std::span<const int64_t> indices, int64_t size, std::string_view op);

}  // namespace tessera
