// Tensor: a value-semantic handle on (storage, shape, strides, offset, dtype, device).
//
// Copying a Tensor copies the handle. Views share storage; a contiguous copy is made only on
// request. Free functions do the work: raw views and kernels in core/, differentiable functions
// (add, matmul, reshape, …) in autograd/.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "tessera/core/device.h"
#include "tessera/core/dtype.h"
#include "tessera/core/shape.h"

namespace tessera {

struct AutogradMeta;  // defined in autograd/; core only stores it
class Tensor;
using TensorList = std::vector<Tensor>;

// A block of memory and the counter of in-place changes made to it.
class Storage {
 public:
  Storage(int64_t bytes, Device device);                           // from the device's allocator
  Storage(void* data, int64_t bytes, std::shared_ptr<void> keep);  // borrowed (a mapped file)
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  Device device() const { return device_; }
  uint32_t version() const { return version_.load(std::memory_order_relaxed); }
  void bump_version() { version_.fetch_add(1, std::memory_order_relaxed); }

 private:
  void* data_ = nullptr;
  int64_t bytes_ = 0;
  Device device_;
  std::shared_ptr<void> keep_;
  std::atomic<uint32_t> version_{0};
};

struct TensorImpl {
  std::shared_ptr<Storage> storage;
  Shape shape;
  Strides strides;
  int64_t offset = 0;  // in elements
  DType dtype = DType::f32;
  std::shared_ptr<AutogradMeta> autograd;
};

class Tensor {
 public:
  Tensor() = default;  // undefined
  explicit Tensor(std::shared_ptr<TensorImpl> impl) : impl_(std::move(impl)) {}
  Tensor(std::shared_ptr<Storage> storage, const Shape& shape, const Strides& strides,
         int64_t offset, DType dtype);

  bool defined() const { return impl_ != nullptr; }
  const Shape& shape() const { return impl().shape; }
  const Strides& strides() const { return impl().strides; }
  int64_t rank() const { return impl().shape.rank(); }
  int64_t size(int64_t dim) const;    // negative counts from the end
  int64_t stride(int64_t dim) const;  // in elements
  int64_t numel() const { return impl().shape.numel(); }
  int64_t offset() const { return impl().offset; }
  DType dtype() const { return impl().dtype; }
  Device device() const { return impl().storage->device(); }
  bool is_contiguous() const;

  // Pointer to the first element, for code that runs on the CPU; throws when T is not the element
  // type or the tensor lies on another device.
  template <class T>
  T* data() const {
    check(device().is_cpu(),
          "data: a kernel for the CPU got a tensor on {}; this operation has no "
          "CUDA kernel: move its inputs with to(Device{{}})",
          device());
    check(dtype() == dtype_of<T>(), "data: tensor is {}, asked for {}", dtype(), dtype_of<T>());
    return static_cast<T*>(raw_data());
  }
  void* raw_data() const;  // wherever it lies

  // The value of a one-element tensor (synchronises a device).
  template <class T = double>
  T item() const {
    return static_cast<T>(item_as_double());
  }
  // All elements in row-major order, converted (synchronises a device).
  template <class T>
  std::vector<T> to_vector() const;

  // Differentiable conversion; returns *this when nothing changes. Defined in autograd/.
  Tensor to(DType dtype) const;
  Tensor to(Device device) const;

  // Gradients. Stored here, defined one floor up in autograd/.
  bool requires_grad() const;  // true also for results computed from such a tensor
  Tensor& set_requires_grad(bool value = true);  // for leaves
  Tensor grad() const;                           // undefined before backward()
  void set_grad(const Tensor& grad) const;       // an undefined tensor clears it
  void backward(const Tensor& grad_output = {}, bool retain_graph = false) const;
  Tensor detach() const;  // shares storage, forgets history

  // Marks an in-place change, so that a backward which saved this storage can refuse.
  void bump_version() const { impl().storage->bump_version(); }
  uint32_t version() const { return impl().storage->version(); }

  const std::shared_ptr<Storage>& storage() const { return impl().storage; }
  TensorImpl& impl() const {
    check(impl_ != nullptr, "tensor: used before it was given a value");
    return *impl_;
  }
  bool is_same(const Tensor& other) const { return impl_ == other.impl_; }
  // Whether nobody else can see this tensor's memory: no other handle, no other view.
  bool is_unshared() const { return impl_.use_count() == 1 && impl_->storage.use_count() == 1; }

 private:
  double item_as_double() const;
  std::shared_ptr<TensorImpl> impl_;
};

extern template std::vector<float> Tensor::to_vector<float>() const;
extern template std::vector<double> Tensor::to_vector<double>() const;
extern template std::vector<int64_t> Tensor::to_vector<int64_t>() const;
extern template std::vector<int32_t> Tensor::to_vector<int32_t>() const;
extern template std::vector<uint8_t> Tensor::to_vector<uint8_t>() const;

}  // namespace tessera
