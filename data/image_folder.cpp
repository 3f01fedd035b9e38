// A folder of images with one sub-folder per class.
#include <algorithm>
#include <array>

#include "tessera/data/image.h"
#include "tessera/data/image_color.h"
#include "tessera/data/image_dataset.h"
#include "tessera/data/image_geometry.h"

namespace tessera {

namespace {

namespace fs = std::filesystem;

struct ImageFolderConfig : ImageConfig {
  std::string path;
  int64_t size = 64;
  int64_t channels = 3;
  double validation_fraction = 0.1;
  TESSERA_FIELDS(f)
  {
    f("path", path,
      "folder with a sub-folder of images per class, or with train, validation and test folders of "
      "that form");
    f("size", size,
      "resize the shorter side to it and cut a centre square; 0: the transforms do that")
        .min(0)
        .max(8192);
    f("channels", channels, "3, or 1 for grey").one_of({1, 3});
    f("validation_fraction", validation_fraction,
      "part of each class held out where there is no validation folder")
        .min(0.001)
        .max(0.9);
    image_fields(f);
  }
};

struct LabelledFile {
  fs::path path;
  int64_t label;
};

std::vector<std::string> class_folders(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& path : list_folder(folder)) {
    if (fs::is_directory(path)) names.push_back(path.filename().string());
  }
  check(names.size() >= 2, "data.path: {} has {} class folders, want at least 2", folder.string(),
        names.size());
  return names;
}

struct ImageFolderDataset : ImageDataset {
  using Config = ImageFolderConfig;

  ImageFolderDataset(const Config& c, const DataContext& context) : ImageDataset(c), config(c) {
    const fs::path root = find_data(c.path, context, "data.path");
    check(fs::is_directory(root), "data.path: {} is no folder", root.string());
    const bool divided = fs::is_directory(root / "train");
    const std::vector<std::string> classes = class_folders(divided ? root / "train" : root);
    files_[0] = list_files(divided ? root / "train" : root, classes);
    if (divided) {
      read_evaluation_folders(root, classes);
    } else {
      hold_out(context.seed);
    }
    for (Split split : {Split::train, Split::validation, Split::test}) {
      check(size(split) > 0, "data.path: no images for the {} split in {}", to_string(split),
            root.string());
    }
    DataInfo info;
    info.channels = c.channels;
    info.height = info.width = c.size > 0 ? c.size : 256;
    info.classes = static_cast<int64_t>(classes.size());
    info.class_names = classes;
    set_info(std::move(info));
  }

  int64_t size(Split split) const override {
    return static_cast<int64_t>(files_[static_cast<size_t>(split)].size());
  }

  LabelledImage sample(Split split, int64_t index) const override {
    const LabelledFile& file = files_[static_cast<size_t>(split)][static_cast<size_t>(index)];
    const Tensor image = with_channels(load_image(file.path), config.channels);
    if (config.size == 0) return {image, file.label};
    return {center_crop(resize_shorter(image, config.size), config.size, config.size), file.label};
  }

 private:
  static std::vector<LabelledFile> list_files(const fs::path& folder,
                                              const std::vector<std::string>& classes) {
    std::vector<LabelledFile> files;
    for (size_t label = 0; label < classes.size(); ++label) {
      if (!fs::is_directory(folder / classes[label])) continue;
      for (const auto& path : list_folder(folder / classes[label])) {
        if (is_image_file(path)) files.push_back({path, static_cast<int64_t>(label)});
      }
    }
    return files;
  }

  // "validation" may be called "val"; a split without a folder takes the other one's images.
  void read_evaluation_folders(const fs::path& root, const std::vector<std::string>& classes) {
    for (const char* name : {"validation", "val"}) {
      if (fs::is_directory(root / name)) files_[1] = list_files(root / name, classes);
    }
    if (fs::is_directory(root / "test")) files_[2] = list_files(root / "test", classes);
    if (files_[1].empty()) files_[1] = files_[2];
    if (files_[2].empty()) files_[2] = files_[1];
  }

  // Every class gives the same share, chosen by the seed; test is validation.
  void hold_out(uint64_t seed) {
    std::vector<LabelledFile> all = std::move(files_[0]);
    files_[0].clear();
    for (size_t first = 0; first < all.size();) {
      size_t last = first;
      while (last < all.size() && all[last].label == all[first].label) ++last;
      const auto count = static_cast<int64_t>(last - first);
      const auto held = static_cast<int64_t>(
          std::max(1.0, static_cast<double>(count) * config.validation_fraction));
      for (size_t i = first; i < last; ++i) {
        const bool out = permuted_index(static_cast<int64_t>(i - first), count, {seed, 0}) < held;
        files_[out && count > 1 ? 1 : 0].push_back(all[i]);
      }
      first = last;
    }
    files_[2] = files_[1];
  }

  Config config;
  std::array<std::vector<LabelledFile>, 3> files_;  // by Split
};
TESSERA_REGISTER(Dataset, ImageFolderDataset, "image_folder",
                 "PNG, JPEG and BMP files in one folder per class", "any folder of images");

}  // namespace

}  // namespace tessera
