#include "tessera/data/transform.h"

#include "tessera/data/image.h"
#include "tessera/data/image_color.h"
#include "tessera/data/image_geometry.h"

namespace tessera {

TransformList::TransformList(std::vector<Choice<Transform>> list) : choices(std::move(list)) {
  for (const auto& choice : choices) steps.push_back(choice.build());
}

Tensor TransformList::operator()(const Tensor& image, Generator* random) const {
  Tensor x = image;
  for (const auto& step : steps) {
    if (random != nullptr || !step->train_only()) x = (*step)(x, random);
  }
  return x;
}

Tensor preprocess(const Tensor& image, const DataInfo& info, const TransformList& transforms) {
  const Tensor x = with_channels(as_image(image, "preprocess"), info.channels);
  const Shape wanted{info.channels, info.height, info.width};
  // A list that resizes by itself sees the whole image.
  const Tensor direct = transforms(x, nullptr);
  if (direct.shape() == wanted) return direct;
  const double scale = std::max(static_cast<double>(info.height) / static_cast<double>(x.size(1)),
                                static_cast<double>(info.width) / static_cast<double>(x.size(2)));
  const auto scaled = [&](int64_t size, int64_t least) {
    return std::max(least, static_cast<int64_t>(static_cast<double>(size) * scale + 0.5));
  };
  const Tensor fitted = resize(x, scaled(x.size(1), info.height), scaled(x.size(2), info.width));
  const Tensor out = transforms(center_crop(fitted, info.height, info.width), nullptr);
  check(out.shape() == wanted, "preprocess: the transforms make {} of {}, the model wants {}",
        out.shape(), image.shape(), wanted);
  return out;
}

}  // namespace tessera
