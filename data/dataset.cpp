#include "tessera/data/dataset.h"

#include <algorithm>
#include <cstdlib>

namespace tessera {

std::string to_string(Split split) {
  switch (split) {
    case Split::train:
      return "train";
    case Split::validation:
      return "validation";
    case Split::test:
      break;
  }
  return "test";
}

Split split_from_name(std::string_view text) {
  for (Split split : {Split::train, Split::validation, Split::test}) {
    if (text == to_string(split)) return split;
  }
  fail("split: \"{}\" is none of train, validation, test", text);
}

std::filesystem::path find_data(const std::string& path, const DataContext& context,
                                const std::string& key) {
  check(!path.empty(), "{}: no path given", key);
  std::vector<std::filesystem::path> places;
  const std::filesystem::path wanted(path);
  if (wanted.is_absolute()) {
    places = {wanted};
  } else {
    places.push_back(context.base / wanted);
    const char* folder = std::getenv("TESSERA_DATA_DIR");
    if (folder != nullptr && *folder != '\0') places.push_back(folder / wanted);
  }
  std::string looked;
  for (const auto& place : places) {
    std::error_code error;
    if (std::filesystem::exists(place, error)) return place;
    looked += (looked.empty() ? "" : ", ") + place.string();
  }
  fail("{}: \"{}\" not found; looked at {}{}", key, path, looked,
       wanted.is_absolute() || places.size() > 1 ? "" : " (TESSERA_DATA_DIR is not set)");
}

std::vector<std::filesystem::path> list_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> entries;
  std::filesystem::directory_iterator at(folder, error);
  for (; !error && at != std::filesystem::directory_iterator(); at.increment(error)) {
    entries.push_back(at->path());
  }
  check(!error, "{}: cannot be read as a folder: {}", folder.string(), error.message());
  std::sort(entries.begin(), entries.end());
  return entries;
}

void check_indices(std::span<const int64_t> indices, int64_t size, std::string_view op) {
  for (int64_t i : indices) {
    check(i >= 0 && i < size, "{}: index {} is outside [0, {})", op, i, size);
  }
}

}  // namespace tessera
