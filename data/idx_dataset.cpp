// MNIST and its relatives.
#include <algorithm>

#include "tessera/core/view.h"
#include "tessera/data/idx.h"
#include "tessera/data/stored_images.h"

namespace tessera {

namespace {

struct IdxConfig : ImageConfig {
  std::string images = "mnist/train-images-idx3-ubyte.gz";
  std::string labels = "mnist/train-labels-idx1-ubyte.gz";
  std::string test_images = "mnist/t10k-images-idx3-ubyte.gz";
  std::string test_labels = "mnist/t10k-labels-idx1-ubyte.gz";
  int64_t validation = 0;
  int64_t classes = 10;
  std::vector<std::string> class_names;
  TESSERA_FIELDS(f)
  {
    f("images", images, "IDX file of training images, .gz or not");
    f("labels", labels, "IDX file of training labels");
    f("test_images", test_images, "IDX file of test images; empty: none");
    f("test_labels", test_labels, "IDX file of test labels");
    f("validation", validation,
      "images taken from the end of the training set; 0: validate on test")
        .min(0);
    f("classes", classes, "number of classes").min(2).max(256);
    f("class_names", class_names, "names of the classes in order; empty: their numbers");
    image_fields(f);
  }
};

StoredImages read_pair(const std::string& images, const std::string& labels,
                       const DataContext& context, const std::string& key) {
  const auto image_path = find_data(images, context, key + "images");
  const auto label_path = find_data(labels, context, key + "labels");
  Tensor pixels = read_idx(image_path);
  const Tensor classes = read_idx(label_path);
  check(pixels.rank() == 3 || pixels.rank() == 4, "{}: byte 3: wants images, got sizes {}",
        image_path.string(), pixels.shape());
  check(classes.rank() == 1, "{}: byte 3: wants labels, got sizes {}", label_path.string(),
        classes.shape());
  check(classes.size(0) == pixels.size(0), "{}: byte 4: {} labels for the {} images of {}",
        label_path.string(), classes.size(0), pixels.size(0), image_path.string());
  if (pixels.rank() == 3) pixels = views::unsqueeze(pixels, 1);
  return {pixels, classes};
}

struct IdxDataset : StoredImageDataset {
  using Config = IdxConfig;
  IdxDataset(const Config& c, const DataContext& context) : StoredImageDataset(c) {
    StoredImages train = read_pair(c.images, c.labels, context, "data.");
    StoredImages test;
    if (!c.test_images.empty()) {
      test = read_pair(c.test_images, c.test_labels, context, "data.test_");
    }
    set_images("data.idx", std::move(train), std::move(test), c.validation, c.classes,
               c.class_names);
  }
};
TESSERA_REGISTER(Dataset, IdxDataset, "idx", "Images and labels in IDX files: MNIST and relatives",
                 "LeCun, Cortes, Burges: the MNIST database");

}  // namespace

}  // namespace tessera
