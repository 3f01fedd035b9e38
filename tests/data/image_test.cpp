#include "tessera/data/image.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "support.h"
#include "tessera/core/create.h"
#include "tessera/core/file.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"
#include "tessera/data/image_color.h"
#include "tessera/data/image_geometry.h"

using namespace tessera;

namespace {

Tensor random_image(int64_t channels, int64_t height, int64_t width, uint64_t seed = 1) {
  Generator random(seed);
  const Tensor x = empty({channels, height, width});
  for (int64_t i = 0; i < x.numel(); ++i) {
    x.data<float>()[i] = static_cast<float>(random.below(256)) / 255.0f;
  }
  return x;
}

double worst_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  const auto x = a.to_vector<float>(), y = b.to_vector<float>();
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(double{x[i]} - y[i]));
  return worst;
}

}  // namespace

TEST_CASE("a PNG written and read back is the same image") {
  for (int64_t channels : {1, 3}) {
    const Tensor x = random_image(channels, 5, 7);
    CHECK(worst_difference(decode_image(encode_png(x), "x.png"), x) < 1e-6);
  }
  const ScratchFolder folder;
  const Tensor x = random_image(3, 1, 1);
  save_png(folder.path / "x.png", views::expand(views::select(x, 0, 0), {1, 1, 1}));
  CHECK(load_image(folder.path / "x.png").shape() == Shape{1, 1, 1});
}

TEST_CASE("saving clamps values and refuses what is no image") {
  const Tensor x = decode_image(encode_png(tensor({-3, 0.5, 7}, {1, 1, 3})), "x.png");
  CHECK(x.to_vector<float>() == std::vector<float>{0.0f, 128.0f / 255, 1.0f});
  CHECK_THROWS_WITH_AS(encode_png(zeros({2, 4, 4})), doctest::Contains("save_png: wants (1, H, W)"),
                       Error);
  CHECK_THROWS_WITH_AS(encode_png(zeros({4, 4})), doctest::Contains("save_png: wants an image"),
                       Error);
}

TEST_CASE("what is no image is refused with its name") {
  CHECK_THROWS_WITH_AS(decode_image("", "x.png"), doctest::Contains("x.png: byte 0: no PNG"),
                       Error);
  CHECK_THROWS_WITH_AS(decode_image("GIF89a....", "x.gif"), doctest::Contains("x.gif: byte 0"),
                       Error);
  CHECK_THROWS_WITH_AS(load_image("/nowhere/x.png"), doctest::Contains("cannot be opened"), Error);
}

TEST_CASE("an image that promises too many pixels is refused before decoding") {
  std::string png = encode_png(zeros({1, 2, 2}));
  png[18] = png[22] = 0x30;  // IHDR width and height, big-endian
  CHECK_THROWS_WITH_AS(decode_image(png, "x.png"), doctest::Contains("12290 x 12290 pixels"),
                       Error);
}

TEST_CASE("a mutated PNG or JPEG is read or refused, never a crash") {
  std::vector<std::string> good{encode_png(random_image(3, 12, 10))};
  if (const auto folder = data_folder("odd_images")) {
    good.push_back(read_file((*folder / "jpeg_reference" / "rgb.jpg").string()));
  }
  for (const std::string& bytes : good) {
    for (uint64_t i = 0; i < 500; ++i) {
      try {
        const Tensor x = decode_image(mutate(bytes, i), "x.img");
        CHECK(x.numel() <= 3 * kMaxPixels);
      } catch (const Error& e) {
        CHECK(std::string(e.what()).starts_with("x.img: byte 0: "));
      }
    }
  }
}

TEST_CASE("every file of the decoder suites loads or gives an Error") {
  for (const char* name : {"pngsuite", "odd_images"}) {
    const auto folder = data_folder(name);
    if (!folder) continue;
    int loaded = 0, refused = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(*folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".png" && extension != ".jpg" && extension != ".jpeg") continue;
      try {
        const Tensor x = load_image(entry.path());
        const auto values = x.to_vector<float>();
        CHECK(std::all_of(values.begin(), values.end(), [](float v) { return v >= 0 && v <= 1; }));
        ++loaded;
      } catch (const Error& e) {
        CHECK(std::string(e.what()).starts_with(entry.path().string() + ": byte "));
        ++refused;
      }
    }
    MESSAGE(std::string(name) << ": " << loaded << " loaded, " << refused << " refused");
    CHECK(loaded > 50);
  }
}

TEST_CASE("PngSuite: the same picture in several encodings decodes alike") {
  const auto folder = data_folder("pngsuite");
  if (!folder) return;
  CHECK(load_image(*folder / "basn0g16.png").shape() == Shape{1, 32, 32});
  for (const char* kind :
       {"0g01", "0g08", "0g16", "2c08", "2c16", "3p08", "4a08", "4a16", "6a16"}) {
    const Tensor plain = load_image(*folder / (std::string("basn") + kind + ".png"));
    const Tensor interlaced = load_image(*folder / (std::string("basi") + kind + ".png"));
    CHECK(worst_difference(plain, interlaced) == 0);
  }
  for (const char* broken : {"xs1n0g01.png", "xcsn0g01.png", "xdtn0g01.png"}) {
    CAPTURE(broken);
    if (std::filesystem::exists(*folder / broken)) {
      try {
        load_image(*folder / broken);
      } catch (const Error&) {
      }
    }
  }
}

TEST_CASE("JPEG decodes to within a few grey levels of the reference") {
  const auto folder = data_folder("odd_images");
  if (!folder) return;
  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(*folder / "jpeg_reference")) {
    if (entry.path().extension() != ".jpg") continue;
    auto reference = entry.path();
    if (!std::filesystem::exists(reference.replace_extension(".png"))) continue;
    try {
      const Tensor x = load_image(entry.path()), y = load_image(reference);
      if (x.shape() != y.shape()) continue;
      double mean = 0;
      const auto a = x.to_vector<float>(), b = y.to_vector<float>();
      for (size_t i = 0; i < a.size(); ++i) mean += std::abs(a[i] - b[i]);
      mean /= static_cast<double>(a.size());
      if (mean > 0.03) MESSAGE(entry.path().filename().string() << " differs by " << mean);
      ++compared;
    } catch (const Error&) {
    }
  }
  CHECK(compared > 10);
}

TEST_CASE("resizing keeps constants, and an equal size leaves the image alone") {
  for (Resample filter : {Resample::nearest, Resample::bilinear, Resample::bicubic}) {
    const Tensor flat = full({3, 9, 13}, 0.25);
    for (int64_t size : {1, 4, 9, 30}) {
      const Tensor y = resize(flat, size, 2 * size, filter);
      CHECK(worst_difference(y, full({3, size, 2 * size}, 0.25)) < 1e-6);
    }
    const Tensor x = random_image(1, 6, 5);
    CHECK(worst_difference(resize(x, 6, 5, filter), x) == 0);
  }
}

TEST_CASE("halving by the triangle filter weights neighbours 1 3 3 1") {
  const Tensor x = tensor({1, 2, 4, 8, 16, 32}, {1, 1, 6});
  const auto y = resize(x, 1, 3).to_vector<float>();
  CHECK(y[1] == doctest::Approx((2.0 + 3 * 4 + 3 * 8 + 16) / 8));
  CHECK(y[0] == doctest::Approx((3 * 1.0 + 3 * 2 + 4) / 7));
}

TEST_CASE("doubling by bicubic interpolates with a = -0.5") {
  const Tensor x = tensor({0, 0, 0, 2, 0, 0, 0}, {1, 1, 7});
  const auto y = resize(x, 1, 14, Resample::bicubic).to_vector<float>();
  CHECK(y[6] == doctest::Approx(2 * 0.8671875));
  CHECK(y[8] == doctest::Approx(2 * 0.2265625));
  CHECK(y[9] == doctest::Approx(2 * -0.0703125));
  const Tensor unit = tensor({0, 0, 0, 1, 0, 0, 0}, {1, 1, 7});
  const auto z = resize(unit, 1, 14, Resample::bicubic).to_vector<float>();
  CHECK(z[8] == doctest::Approx(0.2265625));
  CHECK(z[9] == 0);
}

TEST_CASE("resizing the shorter side keeps the proportions") {
  CHECK(resize_shorter(zeros({3, 375, 500}), 256).shape() == Shape{3, 256, 341});
  CHECK(resize_shorter(zeros({3, 500, 375}), 256).shape() == Shape{3, 341, 256});
  CHECK_THROWS_WITH_AS(resize(zeros({3, 0, 5}), 2, 2), doctest::Contains("is empty"), Error);
  CHECK_THROWS_WITH_AS(resize(zeros({3, 5, 5}), 0, 2), doctest::Contains("output size 0 x 2"),
                       Error);
}

TEST_CASE("crops, pads and flips move pixels and nothing else") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6}, {1, 2, 3});
  CHECK(crop(x, 0, 1, 2, 2).to_vector<float>() == std::vector<float>{2, 3, 5, 6});
  CHECK(crop(x, -1, 0, 2, 2, 9).to_vector<float>() == std::vector<float>{9, 9, 1, 2});
  CHECK(center_crop(x, 2, 1).to_vector<float>() == std::vector<float>{2, 5});
  CHECK(center_crop(x, 2, 5).to_vector<float>() ==
        std::vector<float>{0, 1, 2, 3, 0, 0, 4, 5, 6, 0});
  CHECK(flip_horizontal(x).to_vector<float>() == std::vector<float>{3, 2, 1, 6, 5, 4});
  const auto padded = pad_reflect(x, 1);
  CHECK(padded.shape() == Shape{1, 4, 5});
  CHECK(views::select(padded, 1, 0).to_vector<float>() == std::vector<float>{5, 4, 5, 6, 5});
  CHECK_THROWS_WITH_AS(pad_reflect(x, 2), doctest::Contains("pad_reflect: padding 2"), Error);
}

TEST_CASE("warping by the identity changes nothing and by whole pixels shifts") {
  const Tensor x = random_image(3, 6, 8);
  CHECK(worst_difference(warp(x, affine_map(0, 1, 0, 0, 0)), x) == 0);
  CHECK(worst_difference(warp(x, affine_map(0, 1, 0, 2, -1)), crop(x, 1, -2, 6, 8)) < 1e-6);
}

TEST_CASE("warping by a quarter turn goes counter-clockwise") {
  const Tensor x = tensor({1, 2, 3, 4, 5, 6, 7, 8, 9}, {1, 3, 3});
  const Tensor y = warp(x, affine_map(1.5707963267948966, 1, 0, 0, 0));
  CHECK(worst_difference(y, tensor({3, 6, 9, 2, 5, 8, 1, 4, 7}, {1, 3, 3})) < 1e-5);
}

TEST_CASE("colour functions with a neutral setting leave the image alone") {
  const Tensor x = random_image(3, 4, 5);
  CHECK(worst_difference(brightness(x, 1), x) == 0);
  CHECK(worst_difference(contrast(x, 1), x) < 1e-6);
  CHECK(worst_difference(saturation(x, 1), x) < 1e-6);
  CHECK(worst_difference(sharpness(x, 1), x) < 1e-6);
  CHECK(worst_difference(hue(x, 0), x) < 1e-5);
  CHECK(worst_difference(hue(hue(x, 0.3), -0.3), x) < 1e-5);
  CHECK(worst_difference(hue(x, 1), x) < 1e-5);
  CHECK(worst_difference(posterize(x, 8), x) < 1e-6);
  CHECK(worst_difference(invert(invert(x)), x) < 1e-6);
  CHECK(worst_difference(with_channels(with_channels(to_grey(x), 3), 1), to_grey(x)) < 1e-6);
}

TEST_CASE("colour functions do what their names say") {
  const Tensor red = tensor({1, 0, 0}, {3, 1, 1});
  CHECK(worst_difference(hue(red, 1.0 / 3), tensor({0, 1, 0}, {3, 1, 1})) < 1e-5);
  CHECK(to_grey(red).item() == doctest::Approx(0.299));
  CHECK(solarize(red, 0.5).to_vector<float>() == std::vector<float>{0, 0, 0});
  CHECK(autocontrast(tensor({0.2, 0.3, 0.4}, {1, 1, 3})).to_vector<float>()[1] ==
        doctest::Approx(0.5));
  CHECK(posterize(tensor({1}, {1, 1, 1}), 1).item() == doctest::Approx(128.0 / 255));
  CHECK(normalize(red, std::vector<double>{0.5}, std::vector<double>{0.25}).to_vector<float>() ==
        std::vector<float>{2, -2, -2});
  const Tensor ramp = views::reshape(linspace(0, 0.25, 512), {1, 16, 32});
  const auto flat = equalize(ramp).to_vector<float>();
  CHECK(flat.back() > 0.95f);
  CHECK_THROWS_WITH_AS(normalize(red, std::vector<double>{1, 2}, std::vector<double>{1}),
                       doctest::Contains("normalize: 2 means"), Error);
  CHECK_THROWS_WITH_AS(with_channels(red, 2), doctest::Contains("with_channels: cannot make 2"),
                       Error);
}
