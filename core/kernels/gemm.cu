#include <cublasLt.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <unordered_map>

#include "tessera/core/create.h"
#include "tessera/core/cuda/runtime.h"
#include "tessera/core/deterministic.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/gemm.h"
#include "tessera/core/kernels/gemm_cuda.h"
#include "tessera/core/kernels/strided.h"
#include "tessera/core/view.h"

namespace tessera::kernels {
namespace {

constexpr size_t kWorkspace = size_t{64} << 20;
constexpr int kCandidates = 12;

void check_blas(cublasStatus_t status, std::string_view what) {
  check(status == CUBLAS_STATUS_SUCCESS, "{}: cuBLASLt reports {}", what,
        cublasLtGetStatusString(status));
}

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return CUDA_R_32F;
    case DType::f64:
      return CUDA_R_64F;
    case DType::bf16:
      return CUDA_R_16BF;
    case DType::f16:
      return CUDA_R_16F;
    default:
      fail("gemm: wants a floating dtype, got {}", dtype);
  }
}

// Row-major products are column-major products of the transposes: C' (N, M) = B' A'. So the left
// operand of cuBLASLt is B, the right one is A, and M and N change places.
struct Side {
  int64_t transposed = 0;
  int64_t ld = 1;
  int64_t batch_stride = 0;
  int64_t alignment = 1;
  bool operator==(const Side&) const = default;
};

// All that a choice of algorithm depends on.
struct Problem {
  int64_t m = 0, n = 0, k = 0, batch = 1;  // of the column-major product
  Side left, right, result;
  int64_t dtype = 0, result_dtype = 0;
  int64_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  int64_t adds = 0;  // beta is not 0
  int64_t tf32 = 0;
  int64_t device = 0;
  bool operator==(const Problem&) const = default;
};

struct ProblemHash {
  size_t operator()(const Problem& p) const {
    uint64_t words[sizeof(Problem) / 8];
    std::memcpy(words, &p, sizeof words);
    uint64_t h = 0;
    for (const uint64_t w : words) h = std::rotl((h ^ w) * 0x9E3779B97F4A7C15u, 29);
    return static_cast<size_t>(h);
  }
};

// Descriptors and algorithm for a problem; only pointers change from call to call.
struct Plan {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t left = nullptr, right = nullptr, result = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
  bool exists = false;
};

struct Pointers {
  const void* left = nullptr;
  const void* right = nullptr;
  void* result = nullptr;
  const void* bias = nullptr;  // also where sums go
  const void* aux = nullptr;
};

template <class T>
void set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name, const T& value) {
  check_blas(cublasLtMatmulDescSetAttribute(desc, name, &value, sizeof value), "gemm");
}

void set_pointers(const Plan& plan, const Pointers& p) {
  if (p.bias != nullptr) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  if (p.aux != nullptr) set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.aux);
}

cublasLtMatrixLayout_t layout(const Problem& p, const Side& side, DType dtype, int64_t rows,
                              int64_t columns) {
  cublasLtMatrixLayout_t made = nullptr;
  if (side.transposed) std::swap(rows, columns);
  check_blas(cublasLtMatrixLayoutCreate(&made, data_type(dtype), static_cast<uint64_t>(rows),
                                        static_cast<uint64_t>(columns), side.ld),
             "gemm");
  if (p.batch > 1) {
    const auto count = static_cast<int32_t>(p.batch);
    check_blas(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                                sizeof count),
               "gemm");
    check_blas(cublasLtMatrixLayoutSetAttribute(made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                &side.batch_stride, sizeof side.batch_stride),
               "gemm");
  }
  return made;
}

class DeviceBlas {
 public:
  explicit DeviceBlas(Device device) : device_(device) {
    cuda::use(device);
    check_blas(cublasLtCreate(&handle_), "gemm");
    workspace_ = empty({static_cast<int64_t>(kWorkspace)}, {DType::u8, device});
  }

  bool has_plan(const Problem& problem, const Pointers& p) {
    std::lock_guard lock(mutex_);
    return plan_of(problem, p).exists;
  }

  void run(const Problem& problem, const Pointers& p, double alpha, double beta) {
    std::lock_guard lock(mutex_);
    const Plan& plan = plan_of(problem, p);
    check(plan.exists,
          "gemm: cuBLASLt has no kernel for a ({}, {}) x ({}, {}) product of {} into {}", problem.n,
          problem.k, problem.k, problem.m, static_cast<DType>(problem.dtype),
          static_cast<DType>(problem.result_dtype));
    set_pointers(plan, p);
    const float alpha32 = static_cast<float>(alpha), beta32 = static_cast<float>(beta);
    const bool wide = static_cast<DType>(problem.dtype) == DType::f64;
    cuda::use(device_);
    check_blas(call(plan, plan.algorithm, p, wide ? static_cast<const void*>(&alpha) : &alpha32,
                    wide ? static_cast<const void*>(&beta) : &beta32),
               "gemm");
  }

 private:
  cublasStatus_t call(const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Pointers& p,
                      const void* alpha, const void* beta) const {
    return cublasLtMatmul(handle_, plan.operation, alpha, p.left, plan.left, p.right, plan.right,
                          beta, p.result, plan.result, p.result, plan.result, &algorithm,
                          workspace_.raw_data(), kWorkspace, cuda::stream(device_));
  }

  const Plan& plan_of(const Problem& problem, const Pointers& p) {
    auto found = plans_.find(problem);
    if (found == plans_.end()) found = plans_.emplace(problem, make_plan(problem, p)).first;
    return found->second;
  }

  Plan make_plan(const Problem& p, const Pointers& pointers) {
    const auto dtype = static_cast<DType>(p.dtype);
    const auto result_dtype = static_cast<DType>(p.result_dtype);
    const cublasComputeType_t compute = dtype == DType::f64 ? CUBLAS_COMPUTE_64F
                                        : p.tf32            ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                            : CUBLAS_COMPUTE_32F;
    Plan plan;
    check_blas(cublasLtMatmulDescCreate(&plan.operation, compute,
                                        dtype == DType::f64 ? CUDA_R_64F : CUDA_R_32F),
               "gemm");
    const auto op = [](const Side& side) { return side.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
    set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, op(p.left));
    set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, op(p.right));
    const auto epilogue = static_cast<cublasLtEpilogue_t>(p.epilogue);
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
      set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, data_type(result_dtype));
    }
    if (pointers.aux != nullptr) set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.m);
    set_pointers(plan, pointers);
    plan.left = layout(p, p.left, dtype, p.m, p.k);
    plan.right = layout(p, p.right, dtype, p.k, p.n);
    plan.result = layout(p, p.result, result_dtype, p.m, p.n);
    choose_algorithm(p, plan, pointers);
    return plan;
  }

  void choose_algorithm(const Problem& p, Plan& plan, const Pointers& pointers) {
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference), "gemm");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
      check_blas(cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof value),
                 "gemm");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspace);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(p.left.alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(p.right.alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(p.result.alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(p.result.alignment));
    // Partial sums of a split product are added in f32, never in the result's half type.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
           static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_MASK &
                                 ~CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE));
    const bool race = !deterministic() && !cuda::is_capturing(device_);
    cublasLtMatmulHeuristicResult_t found[kCandidates] = {};
    int count = 0;
    const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        handle_, plan.operation, plan.left, plan.right, plan.result, plan.result, preference,
        race ? kCandidates : 1, found, &count);
    cublasLtMatmulPreferenceDestroy(preference);
    plan.exists = status == CUBLAS_STATUS_SUCCESS && count > 0;
    if (!plan.exists) return;
    const int best = race && count > 1 ? fastest(p, plan, pointers, found, count) : 0;
    plan.algorithm = found[best].algo;
  }

  // The candidate with the shortest of three runs. The result goes to scratch memory: C may hold
  // what the product is added to. (Whatever an epilogue writes is written again by the real run.)
  int fastest(const Problem& p, const Plan& plan, Pointers pointers,
              const cublasLtMatmulHeuristicResult_t* found, int count) const {
    const auto dtype = static_cast<DType>(p.result_dtype);
    const int64_t elements =
        p.result.ld * (p.n - 1) + p.m + (p.batch - 1) * std::abs(p.result.batch_stride);
    const Tensor scratch = zeros({elements}, {dtype, device_});
    pointers.result = scratch.raw_data();
    const float one = 1;
    const double wide_one = 1;
    const void* unit = dtype == DType::f64 ? static_cast<const void*>(&wide_one) : &one;
    const float nothing = 0;
    const double wide_nothing = 0;
    const void* beta = p.adds                ? unit
                       : dtype == DType::f64 ? static_cast<const void*>(&wide_nothing)
                                             : &nothing;
    const cudaStream_t stream = cuda::stream(device_);
    cudaEvent_t start = nullptr, stop = nullptr;
    cuda::check_status(cudaEventCreate(&start), "gemm");
    cuda::check_status(cudaEventCreate(&stop), "gemm");
    int best = 0;
    float best_time = INFINITY;
    for (int i = 0; i < count; ++i) {
      float shortest = INFINITY;
      for (int run = 0; run < 4; ++run) {  // the first one warms up
        cuda::check_status(cudaEventRecord(start, stream), "gemm");
        if (call(plan, found[i].algo, pointers, unit, beta) != CUBLAS_STATUS_SUCCESS) break;
        cuda::check_status(cudaEventRecord(stop, stream), "gemm");
        cuda::check_status(cudaEventSynchronize(stop), "gemm");
        float time = 0;
        cuda::check_status(cudaEventElapsedTime(&time, start, stop), "gemm");
        if (run > 0) shortest = std::min(shortest, time);
      }
      if (shortest < best_time) {
        best_time = shortest;
        best = i;
      }
    }
    cudaEventDestroy(start);
    cudaEventDestroy(stop);
    return best;
  }

  Device device_;
  std::mutex mutex_;
  cublasLtHandle_t handle_ = nullptr;
  Tensor workspace_;
  std::unordered_map<Problem, Plan, ProblemHash> plans_;
};

DeviceBlas& blas(Device device) {
  static std::mutex mutex;
  static std::vector<DeviceBlas*> all;  // never destroyed: the runtime may be gone by then
  std::lock_guard lock(mutex);
  const auto index = static_cast<size_t>(device.index);
  if (all.size() <= index) all.resize(index + 1);
  if (all[index] == nullptr) all[index] = new DeviceBlas(device);
  return *all[index];
}

// A matrix as cuBLASLt takes it: one of the last two dimensions is dense. Others are copied.
struct Matrix {
  Tensor tensor;
  bool transposed = false;  // the rows of the row-major matrix are its dense dimension
  int64_t ld = 1;
};

bool fits(int64_t inner_stride, int64_t outer_stride, int64_t inner, int64_t outer) {
  return (inner_stride == 1 || inner == 1) && (outer_stride >= inner || outer == 1);
}

Matrix matrix(const Tensor& x) {
  const int64_t rows = x.size(-2), columns = x.size(-1);
  if (fits(x.stride(-1), x.stride(-2), columns, rows)) {
    return {x, false, std::max<int64_t>(columns, rows > 1 ? x.stride(-2) : 1)};
  }
  if (fits(x.stride(-2), x.stride(-1), rows, columns)) {
    return {x, true, std::max<int64_t>(rows, columns > 1 ? x.stride(-1) : 1)};
  }
  return {contiguous(x), false, columns};
}

// The power of two, at most 256, of which all matrices of a batch begin at a multiple.
int64_t alignment_of(const void* pointer, int64_t batch_bytes) {
  const uint64_t bits =
      reinterpret_cast<uintptr_t>(pointer) | static_cast<uint64_t>(batch_bytes) | 256;
  return static_cast<int64_t>(bits & -bits);
}

cublasLtEpilogue_t epilogue_kind(const Epilogue& e) {
  if (e.gelu_at.defined()) {
    return e.sums.defined() ? CUBLASLT_EPILOGUE_DGELU_BGRAD : CUBLASLT_EPILOGUE_DGELU;
  }
  if (e.sums.defined()) return CUBLASLT_EPILOGUE_BGRADB;
  if (e.gelu_input.defined()) {
    return e.bias.defined() ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
  }
  return e.bias.defined() ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
}

const void* pointer_of(const Tensor& x) {
  return x.defined() ? x.raw_data() : nullptr;
}

// One product as the calls that do it: strided batches along the last batch dimension.
template <class Fn>
void for_each_call(const Tensor& c, const Tensor& a, const Tensor& b, double beta,
                   const Epilogue& epilogue, const Fn& fn) {
  const Device device = c.device();
  check(a.device() == device && b.device() == device, "gemm: devices differ: {} x {} -> {}",
        a.device(), b.device(), device);
  const Matrix left = matrix(b), right = matrix(a);
  Shape batch_shape = c.shape();
  batch_shape.pop_back();
  batch_shape.pop_back();
  const auto head = [](const Tensor& x) { return views::select(views::select(x, -1, 0), -1, 0); };
  const Tensor heads[] = {head(c), head(left.tensor), head(right.tensor)};
  const Tensor* operands[] = {&heads[0], &heads[1], &heads[2]};
  const StridedLoop loop(batch_shape, operands);
  const int64_t bytes = size_of(a.dtype()), result_bytes = size_of(c.dtype());

  Problem p;
  p.m = c.size(-1);
  p.n = c.size(-2);
  p.k = a.size(-1);
  p.batch = loop.row_size();
  p.dtype = static_cast<int64_t>(a.dtype());
  p.result_dtype = static_cast<int64_t>(c.dtype());
  p.epilogue = epilogue_kind(epilogue);
  p.adds = beta != 0;
  p.tf32 = a.dtype() == DType::f32 && tf32();
  p.device = device.index;
  const int64_t ldc = std::max<int64_t>(p.m, p.n > 1 ? c.stride(-2) : 1);
  const auto side = [&p](bool transposed, int64_t ld, int64_t stride, const void* pointer,
                         int64_t size) {
    if (p.batch == 1) stride = 0;
    return Side{transposed, ld, stride, alignment_of(pointer, stride * size)};
  };
  for (int64_t row = 0; row < loop.rows(); ++row) {
    int64_t at[3];
    loop.row_offsets(row, at);
    const Pointers pointers{
        .left = static_cast<const char*>(left.tensor.raw_data()) + at[1] * bytes,
        .right = static_cast<const char*>(right.tensor.raw_data()) + at[2] * bytes,
        .result = static_cast<char*>(c.raw_data()) + at[0] * result_bytes,
        .bias = pointer_of(epilogue.sums.defined() ? epilogue.sums : epilogue.bias),
        .aux = pointer_of(epilogue.gelu_at.defined() ? epilogue.gelu_at : epilogue.gelu_input)};
    p.left = side(left.transposed, left.ld, loop.row_stride(1), pointers.left, bytes);
    p.right = side(right.transposed, right.ld, loop.row_stride(2), pointers.right, bytes);
    p.result = side(false, ldc, loop.row_stride(0), pointers.result, result_bytes);
    fn(p, pointers);
  }
}

}  // namespace

void gemm_cuda(const Tensor& c, const Tensor& a, const Tensor& b, double alpha, double beta,
               const Epilogue& epilogue) {
  for_each_call(c, a, b, beta, epilogue, [&](const Problem& p, const Pointers& pointers) {
    blas(c.device()).run(p, pointers, alpha, beta);
  });
}

bool gemm_fuses(const Tensor& c, const Tensor& a, const Tensor& b, double beta,
                const Epilogue& epilogue) {
  if (c.numel() == 0 || a.size(-1) == 0 || c.dtype() == DType::f64) return false;
  bool all = true;
  for_each_call(c, a, b, beta, epilogue, [&](const Problem& p, const Pointers& pointers) {
    all = all && blas(c.device()).has_plan(p, pointers);
  });
  return all;
}

}  // namespace tessera::kernels
