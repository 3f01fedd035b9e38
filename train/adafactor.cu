#include "tessera/train/adafactor_cuda.h"
#include "tessera/train/parameter_table.h"

namespace tessera {
namespace {

using cuda::PieceRange;
using Entry = ParameterTable::Entry;

constexpr int kRows = 8;      // of a block of rows_kernel, a warp each
constexpr int kColumns = 32;  // of a block of columns_kernel
constexpr int kLanes = 16;    // threads that share a column

struct Matrix {
  int64_t rows = 0;
  int64_t columns = 0;  // 0: a vector with a full second moment
  int64_t first_piece = 0;
  int64_t pieces = 0;
};

struct Scale {
  double mean_row = 1;
  double step = 0;  // w ← shrink w − step u
};

struct Sums {
  double u = 0;
  double w = 0;
};

// All that kernels read.
struct View {
  const Entry* entries;
  const Matrix* matrices;
  const StepState* state;
  Scale* scales;
  FactoredRule rule;

  __device__ bool skips(const Entry& e) const { return state->finite == 0 || e.grad == nullptr; }
  __device__ double squared(double g) const {
    const double x = g * state->scale;
    return x * x + rule.eps1;
  }
};

template <class G>
__device__ double element(const Entry& e, int64_t i) {
  return convert<float>(static_cast<const G*>(e.grad)[i]);
}

// Row means: r ← β r + (1 − β) mean(g² + ε₁).
__global__ void rows_kernel(View v, const PieceRange* ranges) {
  const PieceRange range = ranges[blockIdx.x];
  const Entry e = v.entries[range.tensor];
  const Matrix m = v.matrices[range.tensor];
  const int64_t row = range.begin + threadIdx.x / cuda::kWarp;
  if (v.skips(e) || row >= m.rows) return;
  double sum = 0;
  visit_gradient(e.grad_type, [&]<class G>(G) {
    for (int64_t j = threadIdx.x % cuda::kWarp; j < m.columns; j += cuda::kWarp) {
      sum += v.squared(element<G>(e, row * m.columns + j));
    }
  });
  sum = cuda::warp_reduce(sum, cuda::Sum{});
  if (threadIdx.x % cuda::kWarp != 0) return;
  const double beta = v.state->scalars.beta;
  e.slot[0][row] =
      static_cast<float>(beta * e.slot[0][row] + (1 - beta) * sum / static_cast<double>(m.columns));
}

// Column means likewise; the rows are dealt out to the threads of a column in turn.
__global__ void columns_kernel(View v, const PieceRange* ranges) {
  __shared__ double parts[kLanes][kColumns];
  const PieceRange range = ranges[blockIdx.x];
  const Entry e = v.entries[range.tensor];
  const Matrix m = v.matrices[range.tensor];
  const int64_t column = range.begin + threadIdx.x;
  if (v.skips(e)) return;
  double sum = 0;
  visit_gradient(e.grad_type, [&]<class G>(G) {
    if (column >= m.columns) return;
#pragma unroll 4
    for (int64_t i = threadIdx.y; i < m.rows; i += kLanes) {
      sum += v.squared(element<G>(e, i * m.columns + column));
    }
  });
  parts[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= m.columns) return;
  for (int k = 1; k < kLanes; ++k) sum += parts[k][threadIdx.x];
  const double beta = v.state->scalars.beta;
  e.slot[1][column] =
      static_cast<float>(beta * e.slot[1][column] + (1 - beta) * sum / static_cast<double>(m.rows));
}

__global__ void vectors_kernel(View v, const PieceRange* ranges) {
  const PieceRange range = ranges[blockIdx.x];
  const Entry e = v.entries[range.tensor];
  if (v.skips(e) || v.matrices[range.tensor].columns > 0) return;
  const double beta = v.state->scalars.beta;
  visit_gradient(e.grad_type, [&]<class G>(G) {
    for (int64_t i = range.begin + threadIdx.x; i < end_of(e, range.begin); i += blockDim.x) {
      e.slot[0][i] =
          static_cast<float>(beta * e.slot[0][i] + (1 - beta) * v.squared(element<G>(e, i)));
    }
  });
}

// The mean of a matrix's row means.
__global__ void mean_kernel(View v) {
  __shared__ double scratch[cuda::kWarp];
  const Entry e = v.entries[blockIdx.x];
  const Matrix m = v.matrices[blockIdx.x];
  if (v.skips(e) || m.columns == 0) return;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < m.rows; i += blockDim.x) sum += e.slot[0][i];
  sum = cuda::block_reduce(sum, cuda::Sum{}, 0.0, scratch);
  if (threadIdx.x == 0) v.scales[blockIdx.x].mean_row = sum / static_cast<double>(m.rows);
}

template <class G>
__device__ double update_of(const View& v, const Entry& e, const Matrix& m, double mean_row,
                            int64_t i) {
  const double second = m.columns == 0 ? static_cast<double>(e.slot[0][i])
                                       : static_cast<double>(e.slot[0][i / m.columns]) *
                                             e.slot[1][i % m.columns] / mean_row;
  return static_cast<float>(element<G>(e, i) * v.state->scale / sqrt(second));
}

__global__ void sums_kernel(View v, const PieceRange* ranges, Sums* sums) {
  __shared__ double scratch[cuda::kWarp];
  const PieceRange range = ranges[blockIdx.x];
  const Entry e = v.entries[range.tensor];
  const Matrix m = v.matrices[range.tensor];
  if (v.skips(e)) return;
  const double mean_row = v.scales[range.tensor].mean_row;
  Sums sum;
  visit_gradient(e.grad_type, [&]<class G>(G) {
    for (int64_t i = range.begin + threadIdx.x; i < end_of(e, range.begin); i += blockDim.x) {
      const double u = update_of<G>(v, e, m, mean_row, i);
      sum.u += u * u;
      sum.w += static_cast<double>(e.weights[i]) * e.weights[i];
    }
  });
  sum.u = cuda::block_reduce(sum.u, cuda::Sum{}, 0.0, scratch);
  sum.w = cuda::block_reduce(sum.w, cuda::Sum{}, 0.0, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void step_kernel(View v, const Sums* sums) {
  __shared__ double scratch[cuda::kWarp];
  const Entry e = v.entries[blockIdx.x];
  const Matrix m = v.matrices[blockIdx.x];
  if (v.skips(e)) return;
  double u = 0, w = 0;
  for (int64_t i = threadIdx.x; i < m.pieces; i += blockDim.x) {
    u += sums[m.first_piece + i].u;
    w += sums[m.first_piece + i].w;
  }
  u = cuda::block_reduce(u, cuda::Sum{}, 0.0, scratch);
  w = cuda::block_reduce(w, cuda::Sum{}, 0.0, scratch);
  if (threadIdx.x != 0) return;
  const auto n = static_cast<double>(e.count);
  const double size = v.rule.relative ? fmax(v.rule.eps2, sqrt(w / n)) : 1;
  v.scales[blockIdx.x].step = v.state->scalars.rate * size / fmax(1.0, sqrt(u / n) / v.rule.clip);
}

__global__ void apply_kernel(View v, const PieceRange* ranges) {
  const PieceRange range = ranges[blockIdx.x];
  const Entry e = v.entries[range.tensor];
  const Matrix m = v.matrices[range.tensor];
  if (v.skips(e)) return;
  const Scale scale = v.scales[range.tensor];
  const auto step = static_cast<float>(scale.step);
  const auto shrink = static_cast<float>(e.decay ? 1 - v.state->scalars.rate * v.rule.penalty : 1);
  visit_gradient(e.grad_type, [&]<class G>(G) {
    for (int64_t i = range.begin + threadIdx.x; i < end_of(e, range.begin); i += blockDim.x) {
      const auto u = static_cast<float>(update_of<G>(v, e, m, scale.mean_row, i));
      const float w = shrink * e.weights[i] - step * u;
      e.weights[i] = w;
      if (e.value != nullptr) store_value(e, i, w);
    }
  });
}

}  // namespace

FactoredTable::FactoredTable(const ParameterTable& table, const std::vector<Parameter>& parameters)
    : table_(table), count_(static_cast<int64_t>(parameters.size())) {
  const Device device = parameters.at(0).value.device();
  std::vector<Matrix> matrices;
  std::vector<int64_t> rows, columns;
  int64_t piece = 0;
  for (const Parameter& p : parameters) {
    Matrix m;
    const int64_t n = p.value.numel();
    if (p.value.rank() >= 2 && n > 0) {
      m.rows = p.value.size(0);
      m.columns = n / m.rows;
    }
    m.first_piece = piece;
    m.pieces = (n + cuda::kPieceSize - 1) / cuda::kPieceSize;
    piece += m.pieces;
    rows.push_back(m.rows);
    columns.push_back(m.columns);
    matrices.push_back(m);
  }
  const cuda::Pieces row_pieces(rows, device, kRows), column_pieces(columns, device, kColumns);
  rows_ = row_pieces.ranges;
  columns_ = column_pieces.ranges;
  row_blocks_ = row_pieces.count;
  column_blocks_ = column_pieces.count;
  matrices_ = cuda::on_device(matrices, device);
  scales_ = cuda::on_device(std::vector<Scale>(parameters.size()), device);
  sums_ =
      cuda::on_device(std::vector<Sums>(static_cast<size_t>(std::max<int64_t>(1, piece))), device);
}

void FactoredTable::update(const FactoredRule& rule, const Tensor& state) const {
  const ParameterTable::Impl& t = table_.impl();
  const View v{t.data(), static_cast<const Matrix*>(matrices_.raw_data()),
               static_cast<const StepState*>(state.raw_data()),
               static_cast<Scale*>(scales_.raw_data()), rule};
  const auto* rows = static_cast<const PieceRange*>(rows_.raw_data());
  const auto* columns = static_cast<const PieceRange*>(columns_.raw_data());
  auto* sums = static_cast<Sums*>(sums_.raw_data());
  const auto each = static_cast<unsigned>(count_);
  const auto launch = [&](auto kernel, unsigned blocks, dim3 threads, auto... arguments) {
    cuda::launch("adafactor", t.device, kernel, blocks, threads, 0, v, arguments...);
  };
  launch(rows_kernel, static_cast<unsigned>(row_blocks_), dim3(kRows * cuda::kWarp), rows);
  launch(columns_kernel, static_cast<unsigned>(column_blocks_), dim3(kColumns, kLanes), columns);
  launch(vectors_kernel, t.pieces.blocks(), dim3(cuda::kPieceThreads), t.pieces.data());
  launch(mean_kernel, each, dim3(1024));
  launch(sums_kernel, t.pieces.blocks(), dim3(cuda::kPieceThreads), t.pieces.data(), sums);
  launch(step_kernel, each, dim3(cuda::kPieceThreads), sums);
  launch(apply_kernel, t.pieces.blocks(), dim3(cuda::kPieceThreads), t.pieces.data());
}

}  // namespace tessera
