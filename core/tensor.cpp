#include "tessera/core/tensor.h"

#include "tessera/core/allocator.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {

Storage::Storage(int64_t bytes, Device device) : bytes_(bytes), device_(device) {
  check(bytes >= 0, "memory: negative size {}", bytes);
  if (bytes > 0) data_ = allocator(device).allocate(static_cast<size_t>(bytes));
}

Storage::Storage(void* data, int64_t bytes, std::shared_ptr<void> keep)
    : data_(data), bytes_(bytes), keep_(std::move(keep)) {}

Storage::~Storage() {
  if (data_ != nullptr && keep_ == nullptr) {
    allocator(device_).deallocate(data_, static_cast<size_t>(bytes_));
  }
}

Tensor::Tensor(std::shared_ptr<Storage> storage, const Shape& shape, const Strides& strides,
               int64_t offset, DType dtype)
    : impl_(std::make_shared<TensorImpl>(
          TensorImpl{std::move(storage), shape, strides, offset, dtype, nullptr})) {}

int64_t Tensor::size(int64_t dim) const {
  return shape()[normalize_dim(dim, rank(), "size")];
}

int64_t Tensor::stride(int64_t dim) const {
  return strides()[normalize_dim(dim, rank(), "stride")];
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int64_t i = rank() - 1; i >= 0; --i) {
    if (shape()[i] != 1 && strides()[i] != expected) return numel() == 0;
    expected *= shape()[i];
  }
  return true;
}

void* Tensor::raw_data() const {
  const TensorImpl& t = impl();
  return static_cast<char*>(t.storage->data()) + t.offset * size_of(t.dtype);
}

double Tensor::item_as_double() const {
  check(numel() == 1, "item: wants one element, got shape {}", shape());
  return to_vector<double>()[0];
}

template <class T>
std::vector<T> Tensor::to_vector() const {
  // bool has no vector with contiguous storage, so the copy goes through a tensor of T.
  const Tensor dense =
      kernels::to_device(kernels::contiguous(kernels::cast(*this, dtype_of<T>())), Device{});
  const T* begin = dense.data<T>();
  return std::vector<T>(begin, begin + dense.numel());
}

template std::vector<float> Tensor::to_vector<float>() const;
template std::vector<double> Tensor::to_vector<double>() const;
template std::vector<int64_t> Tensor::to_vector<int64_t>() const;
template std::vector<int32_t> Tensor::to_vector<int32_t>() const;
template std::vector<uint8_t> Tensor::to_vector<uint8_t>() const;

}  // namespace tessera
