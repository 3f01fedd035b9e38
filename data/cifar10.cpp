// CIFAR-10 in its binary form: records of one label byte and 3 x 32 x 32 bytes.
#include <cstring>

#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/data/stored_images.h"

namespace tessera {

namespace {

constexpr int64_t kPixels = 3 * 32 * 32;
constexpr int64_t kRecord = 1 + kPixels;

struct Cifar10Config : ImageConfig {
  std::string path = "cifar10";
  int64_t validation = 0;
  TESSERA_FIELDS(f)
  {
    f("path", path, "folder with data_batch_*.bin and test_batch*.bin");
    f("validation", validation,
      "images taken from the end of the training set; 0: validate on test")
        .min(0);
    image_fields(f);
  }
};

// The files of `folder` named PREFIX*.bin.
std::vector<std::filesystem::path> batch_files(const std::filesystem::path& folder,
                                               std::string_view prefix) {
  std::vector<std::filesystem::path> files;
  for (const auto& path : list_folder(folder)) {
    const std::string name = path.filename().string();
    if (name.starts_with(prefix) && name.ends_with(".bin")) files.push_back(path);
  }
  return files;
}

void append_records(const std::filesystem::path& file, std::string& labels, std::string& pixels) {
  const std::string bytes = read_file(file.string());
  const auto size = static_cast<int64_t>(bytes.size());
  check(size > 0 && size % kRecord == 0, "{}: byte {}: the file ends inside a record of {} bytes",
        file.string(), size, kRecord);
  for (int64_t at = 0; at < size; at += kRecord) {
    const auto label = static_cast<unsigned char>(bytes[static_cast<size_t>(at)]);
    check(label < 10, "{}: byte {}: label {} is outside [0, 10)", file.string(), at, label);
    labels.push_back(static_cast<char>(label));
    pixels.append(bytes, static_cast<size_t>(at + 1), kPixels);
  }
}

StoredImages read_batches(const std::vector<std::filesystem::path>& files) {
  std::string labels, pixels;
  for (const auto& file : files) append_records(file, labels, pixels);
  if (labels.empty()) return {};
  const auto count = static_cast<int64_t>(labels.size());
  StoredImages part{empty({count, 3, 32, 32}, {DType::u8, {}}), empty({count}, {DType::u8, {}})};
  std::memcpy(part.images.raw_data(), pixels.data(), pixels.size());
  std::memcpy(part.labels.raw_data(), labels.data(), labels.size());
  return part;
}

struct Cifar10Dataset : StoredImageDataset {
  using Config = Cifar10Config;
  Cifar10Dataset(const Config& c, const DataContext& context) : StoredImageDataset(c) {
    const auto folder = find_data(c.path, context, "data.path");
    StoredImages train = read_batches(batch_files(folder, "data_batch"));
    check(train.count() > 0, "data.path: no data_batch_*.bin in {}", folder.string());
    set_images(
        "data.cifar10", std::move(train), read_batches(batch_files(folder, "test_batch")),
        c.validation, 10,
        {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"});
  }
};
TESSERA_REGISTER(Dataset, Cifar10Dataset, "cifar10", "CIFAR-10, binary version",
                 "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images");

}  // namespace

}  // namespace tessera
