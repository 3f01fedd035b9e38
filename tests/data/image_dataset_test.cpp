#include "tessera/data/image_dataset.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "support.h"
#include "tessera/core/create.h"
#include "tessera/core/view.h"
#include "tessera/data/image.h"
#include "tessera/data/state.h"

using namespace tessera;

namespace {

std::string idx_header(std::initializer_list<int> sizes) {
  std::string bytes{0, 0, 8, static_cast<char>(sizes.size())};
  for (int size : sizes) bytes += std::string{0, 0, 0, static_cast<char>(size)};
  return bytes;
}

// Ten training and four test images of 2 x 3; image i is filled with the value 10 i.
void write_idx_set(const ScratchFolder& folder) {
  for (const auto& [name, count] : {std::pair<std::string, int>{"train", 10}, {"test", 4}}) {
    std::string images = idx_header({count, 2, 3}), labels = idx_header({count});
    for (int i = 0; i < count; ++i) {
      images += std::string(6, static_cast<char>(10 * i));
      labels.push_back(static_cast<char>(i % 3));
    }
    folder.write(name + "-images", images);
    folder.write(name + "-labels", labels);
  }
}

const char* const kIdx = R"({"type": "idx", "images": "train-images", "labels": "train-labels",
  "test_images": "test-images", "test_labels": "test-labels", "classes": 3, "transforms": [] %})";

std::string idx_config(const std::string& more = "") {
  std::string config = kIdx;
  return config.replace(config.find('%'), 1, more);
}

bool same(const Batch& a, const Batch& b) {
  return a.at("images").to_vector<float>() == b.at("images").to_vector<float>() &&
         a.at("labels").to_vector<int64_t>() == b.at("labels").to_vector<int64_t>();
}

}  // namespace

TEST_CASE("an IDX set gives images in [0, 1] with their labels, validation from the end") {
  const ScratchFolder folder;
  write_idx_set(folder);
  const auto data = make_dataset(idx_config(R"(, "validation": 3)"), folder.path);
  CHECK(data->size(Split::train) == 7);
  CHECK(data->size(Split::validation) == 3);
  CHECK(data->size(Split::test) == 4);
  const Batch batch = data->get(Split::validation, std::vector<int64_t>{2, 0}, 0);
  CHECK(batch.at("images").shape() == Shape{2, 1, 2, 3});
  CHECK(batch.at("labels").to_vector<int64_t>() == std::vector<int64_t>{0, 1});
  CHECK(batch.at("images").to_vector<float>()[0] == doctest::Approx(90.0 / 255));
  CHECK(make_dataset(idx_config(), folder.path)->size(Split::validation) == 4);
  const DataInfo info = data->info();
  CHECK((info.channels == 1 && info.height == 2 && info.width == 3 && info.classes == 3));
  CHECK(info.class_names == std::vector<std::string>{"0", "1", "2"});
}

TEST_CASE("IDX files that do not fit each other are refused") {
  const ScratchFolder folder;
  write_idx_set(folder);
  CHECK_THROWS_WITH_AS(make_dataset(idx_config(R"(, "validation": 10)"), folder.path),
                       doctest::Contains("validation 10 must leave"), Error);
  folder.write("test-labels", idx_header({4}) + std::string("\0\1\7\0", 4));
  CHECK_THROWS_WITH_AS(make_dataset(idx_config(), folder.path),
                       doctest::Contains("label 7 of image 2 is outside [0, 3)"), Error);
  folder.write("test-labels", idx_header({3}) + std::string("\0\1\2", 3));
  CHECK_THROWS_WITH_AS(make_dataset(idx_config(), folder.path),
                       doctest::Contains("3 labels for the 4 images"), Error);
  folder.write("test-labels", idx_header({4, 2, 3}) + std::string(24, '\0'));
  CHECK_THROWS_WITH_AS(make_dataset(idx_config(), folder.path), doctest::Contains("wants labels"),
                       Error);
}

TEST_CASE("MNIST and CIFAR-10 load with their published counts") {
  if (data_folder("mnist")) {
    const auto data = make_dataset(R"({"type": "idx"})");
    CHECK(data->size(Split::train) == 60000);
    CHECK(data->size(Split::test) == 10000);
    const Batch batch = data->get(Split::train, range(5), 1);
    CHECK(batch.at("labels").to_vector<int64_t>() == std::vector<int64_t>{5, 0, 4, 1, 9});
    CHECK(batch.at("images").shape() == Shape{5, 1, 28, 28});
  }
  if (data_folder("cifar10")) {
    const auto data = make_dataset(R"({"type": "cifar10", "transforms": []})");
    CHECK(data->size(Split::train) == 10000);
    CHECK(data->size(Split::test) == 1000);
    const Batch batch = data->get(Split::train, range(1), 1);
    CHECK(data->info().class_names[static_cast<size_t>(batch.at("labels").item<int64_t>())] ==
          "frog");
    CHECK(batch.at("images").to_vector<float>()[0] == doctest::Approx(59.0 / 255));
  }
}

TEST_CASE("CIFAR files with a cut record or a label beyond ten are refused") {
  const ScratchFolder folder;
  folder.write("c/data_batch_1.bin", std::string(3073 * 2, '\1'));
  const std::string config = R"({"type": "cifar10", "path": "c", "validation": 1})";
  CHECK(make_dataset(config, folder.path)->size(Split::train) == 1);
  folder.write("c/data_batch_2.bin", std::string(100, '\0'));
  CHECK_THROWS_WITH_AS(make_dataset(config, folder.path),
                       doctest::Contains("byte 100: the file ends inside a record"), Error);
  folder.write("c/data_batch_2.bin", std::string(3073, '\12'));
  CHECK_THROWS_WITH_AS(make_dataset(config, folder.path),
                       doctest::Contains("byte 0: label 10 is outside"), Error);
}

TEST_CASE("generated images are the same for an index and differ between splits and seeds") {
  for (const char* type : {"glyphs", "shapes", "odd_corner"}) {
    CAPTURE(type);
    const std::string config = std::string(R"({"type": ")") + type + "\"}";
    const auto data = make_dataset(config);
    CHECK(data->size(Split::train) == kEndless);
    CHECK(data->size(Split::test) == 2000);
    const std::vector<int64_t> indices{7, int64_t{1} << 39};
    const Batch batch = data->get(Split::train, indices, 1);
    CHECK(same(batch, make_dataset(config)->get(Split::train, indices, 2)));
    CHECK_FALSE(same(batch, make_dataset(config, ".", 2)->get(Split::train, indices, 1)));
    const std::vector<int64_t> seven{7};
    CHECK_FALSE(same(data->get(Split::train, seven, 1), data->get(Split::validation, seven, 1)));
    CHECK_FALSE(same(data->get(Split::test, seven, 1), data->get(Split::validation, seven, 1)));
  }
}

TEST_CASE("generated labels are balanced and images lie in [0, 1] before normalisation") {
  for (const auto& [type, classes] :
       {std::pair<const char*, int64_t>{"glyphs", 10}, {"shapes", 10}, {"odd_corner", 4}}) {
    const std::string name = type;
    CAPTURE(name);
    const auto data = make_dataset(std::string(R"({"type": ")") + type + R"(", "transforms": []})");
    CHECK(data->info().classes == classes);
    const Batch batch = data->get(Split::train, range(2000), 1);
    std::vector<int64_t> counts(static_cast<size_t>(classes));
    for (int64_t label : batch.at("labels").to_vector<int64_t>()) {
      ++counts.at(static_cast<size_t>(label));
    }
    for (int64_t count : counts) {
      CHECK(static_cast<double>(count) ==
            doctest::Approx(2000.0 / static_cast<double>(classes)).epsilon(0.25));
    }
    const auto pixels = batch.at("images").to_vector<float>();
    CHECK(*std::min_element(pixels.begin(), pixels.end()) >= 0.0f);
    CHECK(*std::max_element(pixels.begin(), pixels.end()) <= 1.0f);
  }
}

TEST_CASE("an odd corner image has two blocks of one colour and one of the label's") {
  const Tensor colours = tensor({.9, .1, .1, .1, .9, .1, .1, .1, .9, .9, .9, .1}, {4, 3});
  for (uint64_t i = 0; i < 100; ++i) {
    Generator random(i);
    const LabelledImage drawn = draw_odd_corner(random);
    std::array<int, 4> seen{};
    for (int64_t corner = 0; corner < 4; ++corner) {
      // Whatever the block's distance from the borders, it covers these two pixels.
      const int64_t y = corner / 2 == 0 ? 4 : 27, x = corner % 2 == 0 ? 4 : 27;
      for (int64_t k = 0; k < 4; ++k) {
        double distance = 0;
        for (int64_t c = 0; c < 3; ++c) {
          const float pixel = drawn.image.data<float>()[(c * 32 + y) * 32 + x];
          distance = std::max(distance, std::abs(pixel - double{colours.data<float>()[k * 3 + c]}));
        }
        if (distance < 0.25) ++seen[static_cast<size_t>(k)];
      }
    }
    REQUIRE(seen[static_cast<size_t>(drawn.label)] == 1);
    REQUIRE(std::count(seen.begin(), seen.end(), 2) == 1);
  }
}

TEST_CASE("augmentation depends on the seed in training and never touches evaluation") {
  const auto data = make_dataset(R"({"type": "shapes", "transforms": [
      {"type": "random_shift", "max": 3}, {"type": "random_flip"}, {"type": "random_affine"},
      {"type": "rand_augment"}, {"type": "color_jitter", "hue": 0.1}, {"type": "pad_crop"},
      {"type": "normalize"}, {"type": "random_erasing", "probability": 1}]})");
  const auto plain = make_dataset(R"({"type": "shapes"})");
  const auto indices = range(8);
  CHECK(same(data->get(Split::train, indices, 5), data->get(Split::train, indices, 5)));
  CHECK_FALSE(same(data->get(Split::train, indices, 5), data->get(Split::train, indices, 6)));
  CHECK(same(data->get(Split::validation, indices, 5), plain->get(Split::validation, indices, 6)));
  // Element i draws the same whatever its place in the batch.
  const Batch one = data->get(Split::train, std::vector<int64_t>{3}, 5);
  const auto all = data->get(Split::train, indices, 5).at("images").to_vector<float>();
  const auto third = one.at("images").to_vector<float>();
  CHECK(std::equal(third.begin(), third.end(), all.begin() + 3 * 3 * 32 * 32));
}

TEST_CASE("mixed batches carry soft targets whose rows sum to one") {
  for (const char* mix : {R"({"mixup": 0.8})", R"({"cutmix": 1})", R"({"label_smoothing": 0.1})",
                          R"({"mixup": 0.8, "cutmix": 1, "label_smoothing": 0.1})"}) {
    CAPTURE(mix);
    const auto data = make_dataset(std::string(R"({"type": "shapes", "mix": )") + mix + "}");
    const Batch batch = data->get(Split::train, range(7), 3);
    const auto targets = batch.at("soft_targets").to_vector<double>();
    for (size_t row = 0; row < 7; ++row) {
      double sum = 0;
      for (size_t c = 0; c < 10; ++c) {
        CHECK(targets[row * 10 + c] >= 0);
        sum += targets[row * 10 + c];
      }
      CHECK(sum == doctest::Approx(1));
    }
    CHECK_FALSE(data->get(Split::validation, range(2), 3).contains("soft_targets"));
  }
}

TEST_CASE("without mixing and smoothing soft targets are the labels, one-hot") {
  Batch batch{{"images", zeros({2, 1, 4, 4})}, {"labels", from_values<int64_t>(range(2), {2})}};
  Generator random(1);
  mix_batch(batch, MixConfig{}, 3, random);
  CHECK(batch.at("soft_targets").to_vector<float>() == std::vector<float>{1, 0, 0, 0, 1, 0});
}

TEST_CASE("cutmix targets equal the area that stayed") {
  MixConfig config;
  config.cutmix = 1;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const Tensor images = zeros({2, 1, 8, 8});
    std::fill_n(images.data<float>(), 64, 1.0f);
    Batch batch{{"images", images}, {"labels", from_values<int64_t>(range(2), {2})}};
    Generator random(seed);
    mix_batch(batch, config, 2, random);
    const auto pixels = images.to_vector<float>();
    double own = 0;
    for (size_t i = 0; i < 64; ++i) own += pixels[i] / 64;
    CHECK(batch.at("soft_targets").to_vector<float>()[0] == doctest::Approx(own));
  }
}

TEST_CASE("beta draws have the mean and the variance of their law") {
  for (double alpha : {0.2, 0.8, 1.0, 4.0}) {
    Generator random(11);
    double sum = 0, squares = 0;
    for (int i = 0; i < 20'000; ++i) {
      const double x = beta_draw(alpha, random);
      sum += x;
      squares += x * x;
    }
    const double mean = sum / 20'000, variance = squares / 20'000 - mean * mean;
    CHECK(mean == doctest::Approx(0.5).epsilon(0.02));
    CHECK(variance == doctest::Approx(0.25 / (2 * alpha + 1)).epsilon(0.05));
  }
}

TEST_CASE("an image folder reads classes, converts channels and resizes") {
  const ScratchFolder folder;
  for (int i = 0; i < 10; ++i) {
    folder.write("set/cat/" + std::to_string(i) + ".png", encode_png(full({3, 6 + i, 9}, 1)));
    folder.write("set/ant/" + std::to_string(i) + ".PNG", encode_png(full({1, 9, 5}, 0)));
  }
  folder.write("set/ant/notes.txt", "no image");
  const auto data = make_dataset(
      R"({"type": "image_folder", "path": "set", "size": 4, "transforms": []})", folder.path);
  CHECK(data->info().class_names == std::vector<std::string>{"ant", "cat"});
  CHECK(data->size(Split::train) == 18);
  CHECK(data->size(Split::validation) == 2);
  const Batch batch = data->get(Split::train, range(18), 1);
  CHECK(batch.at("images").shape() == Shape{18, 3, 4, 4});
  const auto pixels = batch.at("images").to_vector<float>();
  const auto labels = batch.at("labels").to_vector<int64_t>();
  for (size_t i = 0; i < 18; ++i) {
    CHECK(pixels[i * 48] == doctest::Approx(static_cast<double>(labels[i])));
  }
  const auto crops = make_dataset(R"({"type": "image_folder", "path": "set", "size": 0,
      "transforms": [{"type": "random_resized_crop", "size": 5}, {"type": "grayscale"}]})",
                                  folder.path);
  CHECK(crops->info().channels == 1);
  CHECK(crops->get(Split::train, range(18), 1).at("images").shape() == Shape{18, 1, 5, 5});
  CHECK(crops->get(Split::test, range(2), 1).at("images").shape() == Shape{2, 1, 5, 5});
}

TEST_CASE("an image folder with a broken file names it, and an odd layout is refused") {
  const ScratchFolder folder;
  for (const char* name : {"s/a/1.png", "s/a/2.png", "s/b/1.png", "s/b/2.png"}) {
    folder.write(name, "broken");
  }
  const auto data = make_dataset(R"({"type": "image_folder", "path": "s"})", folder.path);
  CHECK_THROWS_WITH_AS(data->get(Split::train, range(1), 1), doctest::Contains(".png: byte 0: no"),
                       Error);
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "image_folder", "path": "s/a"})", folder.path),
                       doctest::Contains("0 class folders"), Error);
  CHECK_THROWS_WITH_AS(make_dataset(R"({"type": "image_folder"})", folder.path),
                       doctest::Contains("data.path: no path given"), Error);
}

TEST_CASE("a data state gives the preprocessing back without the files") {
  const auto data = make_dataset(R"({"type": "glyphs", "transforms": [
      {"type": "random_shift", "max": 2}, {"type": "normalize", "mean": [0.3], "std": [0.5]}]})");
  const DataState state = restore_data_state(parse_json(data_state(*data).dump(), "state"));
  CHECK(state.tokenizer == nullptr);
  CHECK(state.info.class_names == data->info().class_names);
  CHECK((state.info.height == 28 && state.info.channels == 1 && state.info.classes == 10));
  Generator random(4);
  const Tensor image = draw_glyph(28, random).image;
  const Tensor ready = preprocess(image, state.info, state.transforms);
  CHECK(ready.to_vector<float>() ==
        preprocess(image, data->info(), *data->transforms()).to_vector<float>());
  CHECK(ready.data<float>()[0] == doctest::Approx((image.data<float>()[0] - 0.3) / 0.5));
  CHECK(preprocess(zeros({3, 100, 60}), state.info, state.transforms).shape() == Shape{1, 28, 28});
  CHECK(preprocess(zeros({1, 3, 90}), state.info, state.transforms).shape() == Shape{1, 28, 28});
}

TEST_CASE("a data state gives the tokenizer back without the text") {
  const auto data = make_dataset(R"({"type": "grammar", "train_size": 2000})");
  const DataState state = restore_data_state(data_state(*data));
  REQUIRE(state.tokenizer != nullptr);
  CHECK(state.info.vocabulary == data->info().vocabulary);
  CHECK(state.info.context == 64);
  CHECK(state.tokenizer->encode("the dog") == data->tokenizer()->encode("the dog"));
  for (const char* bad : {R"({"info": {"vocabulary": "x"}})", "[]", R"({"tokenizer": "none"})"}) {
    CHECK_THROWS_AS(restore_data_state(parse_json(bad, "state")), ConfigError);
  }
}
