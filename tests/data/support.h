// What several data tests share: the folder of real files, scratch folders, mutated bytes.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "tessera/config/json.h"
#include "tessera/config/registry.h"
#include "tessera/core/random.h"
#include "tessera/data/dataset.h"

namespace tessera {

// A folder of $TESSERA_DATA_DIR; says so and gives nothing when it is absent.
inline std::optional<std::filesystem::path> data_folder(const std::string& name) {
  const char* root = std::getenv("TESSERA_DATA_DIR");
  if (root != nullptr && std::filesystem::exists(std::filesystem::path(root) / name)) {
    return std::filesystem::path(root) / name;
  }
  MESSAGE("skipped: no " << name << " in TESSERA_DATA_DIR");
  return std::nullopt;
}

// A fresh folder, removed with this object.
struct ScratchFolder {
  std::filesystem::path path;
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tessera_data_XXXXXX").string();
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~ScratchFolder() { std::filesystem::remove_all(path); }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

inline std::unique_ptr<Dataset> make_dataset(const std::string& config,
                                             const std::filesystem::path& base = ".",
                                             uint64_t seed = 1) {
  const auto choice = from_json<Choice<Dataset>>(parse_json(config, "test"), "data");
  return choice.build(DataContext{base, seed});
}

inline std::vector<int64_t> range(int64_t count, int64_t first = 0) {
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

// `bytes` with a few of them changed (more often near the beginning), cut short or grown.
inline std::string mutate(std::string bytes, uint64_t seed) {
  Generator random(seed, 77);
  const auto size = static_cast<int64_t>(bytes.size());
  for (int64_t edits = 1 + random.below(4); edits > 0; --edits) {
    const int64_t range = random.below(2) ? std::min<int64_t>(size, 64) : size;
    const auto at = static_cast<size_t>(random.below(range));
    if (at < bytes.size()) bytes[at] = static_cast<char>(random.below(256));
  }
  if (random.below(4) == 0) bytes.resize(static_cast<size_t>(random.below(size)));
  if (random.below(8) == 0) bytes.append(static_cast<size_t>(random.below(9)), '\xA5');
  return bytes;
}

}  // namespace tessera
