#include "tessera/attention/engines/linear_pass.h"

#include <cblas.h>

#include <utility>

#include "tessera/attention/engines/engine.h"
#include "tessera/attention/engines/linear_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/math.h"
#include "tessera/core/parallel.h"
#include "tessera/core/view.h"

namespace tessera::linear_engine {
namespace {

constexpr int64_t kChunk = 64;
constexpr int64_t kTasks = 8;       // few heads are cut into so many tasks,
constexpr int64_t kShortest = 512;  // of at least so many tokens

// Row-major C = alpha op(A) op(B) + beta C on one thread; callers are inside a parallel region.
template <class T>
struct Matrix {
  T* data = nullptr;
  int64_t ld = 1;
  bool transposed = false;
  T* row(int64_t i) const { return data + i * ld; }
  Matrix from(int64_t i) const { return {row(i), ld, transposed}; }
  Matrix t() const { return {data, ld, !transposed}; }
};

template <class T>
void product(int64_t m, int64_t n, int64_t k, double alpha, Matrix<T> a, Matrix<T> b, double beta,
             Matrix<T> c) {
  const auto op = [](const Matrix<T>& x) { return x.transposed ? CblasTrans : CblasNoTrans; };
  const auto narrow = [](int64_t x) { return static_cast<blasint>(x); };
  if constexpr (std::is_same_v<T, float>) {
    cblas_sgemm(CblasRowMajor, op(a), op(b), narrow(m), narrow(n), narrow(k),
                static_cast<float>(alpha), a.data, narrow(a.ld), b.data, narrow(b.ld),
                static_cast<float>(beta), c.data, narrow(c.ld));
  } else {
    cblas_dgemm(CblasRowMajor, op(a), op(b), narrow(m), narrow(n), narrow(k), alpha, a.data,
                narrow(a.ld), b.data, narrow(b.ld), beta, c.data, narrow(c.ld));
  }
}

// Head h of `heads`, of a tensor that may have fewer.
template <class T>
Matrix<T> head_of(const Tensor& x, int64_t b, int64_t h, int64_t heads) {
  const int64_t ld = std::max({x.size(2) > 1 ? x.stride(2) : 1, x.size(3), int64_t{1}});
  return {x.data<T>() + b * x.stride(0) + h / (heads / x.size(1)) * x.stride(1), ld};
}

// The decays of one chunk of a head.
template <class T>
class Decays {
 public:
  Decays(const Pass& p, int64_t b, int64_t h) : backward_(p.backward) {
    const auto chunk = static_cast<size_t>(p.chunk);
    before_.resize(chunk);
    after_.resize(chunk);
    if (p.log_decay.defined() && p.log_decay.rank() == 3) {
      per_token_ = p.log_decay.data<T>() + (b * p.heads + h) * p.length();
      sums_.resize(chunk);
      return;
    }
    const double g = p.log_decay.defined() ? static_cast<double>(p.log_decay.data<T>()[h]) : 0;
    // powers_[chunk + d] = powers_[chunk − d] = exp(d g): rows of w are pieces of it
    powers_.resize(2 * chunk + 1);
    for (size_t d = 0; d <= chunk; ++d) {
      const T power = static_cast<T>(math::exp(static_cast<double>(d) * g));
      powers_[chunk - d] = powers_[chunk + d] = power;
    }
  }

  void set(int64_t begin, int64_t count) {
    count_ = count;
    const auto n = static_cast<size_t>(count);
    if (per_token_ == nullptr) {
      const T* power = powers_.data() + before_.size();
      for (size_t i = 0; i < n; ++i) {
        before_[i] = power[i + 1];
        after_[i] = power[n - 1 - i];
      }
      total_ = power[n];
      return;
    }
    double sum = 0;
    for (size_t i = 0; i < n; ++i)
      sums_[i] = sum += static_cast<double>(per_token_[begin + static_cast<int64_t>(i)]);
    for (size_t i = 0; i < n; ++i) {
      before_[i] = static_cast<T>(math::exp(sums_[i]));
      after_[i] = static_cast<T>(math::exp(sum - sums_[i]));
    }
    total_ = static_cast<T>(math::exp(sum));
  }

  T total() const { return total_; }
  T of_query(int64_t i) const { return (backward_ ? after_ : before_)[static_cast<size_t>(i)]; }
  T of_key(int64_t j) const { return (backward_ ? before_ : after_)[static_cast<size_t>(j)]; }

  // Row i of the products times w_ij, 0 where j is not seen.
  void weigh(T* row, int64_t i) const {
    const int64_t begin = backward_ ? i : 0, end = backward_ ? count_ : i + 1;
    std::fill(row, row + begin, T{0});
    std::fill(row + end, row + count_, T{0});
    if (per_token_ == nullptr) {
      const T* w = powers_.data() + static_cast<int64_t>(before_.size()) - i;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) row[j] *= w[j];
      return;
    }
    const double own = sums_[static_cast<size_t>(i)], sign = backward_ ? -1 : 1;
    const double* sums = sums_.data();
#pragma omp simd
    for (int64_t j = begin; j < end; ++j) {
      row[j] *= math::exp(static_cast<T>(sign * (own - sums[j])));
    }
  }

 private:
  bool backward_;
  const T* per_token_ = nullptr;
  int64_t count_ = 0;
  T total_ = 1;
  std::vector<T> before_, after_, powers_;
  std::vector<double> sums_;  // G of the chunk
};

template <class T>
T dot(const T* x, const T* y, int64_t n) {
  T total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < n; ++i) total += x[i] * y[i];
  return total;
}

// One segment of one head.
template <class T>
class Segment {
 public:
  Segment(const Pass& p, int64_t b, int64_t h, int64_t index)
      : p_(p),
        width_(p.width()),
        value_width_(p.value_width()),
        k_(head_of<T>(p.key, b, h, p.heads)),
        v_(head_of<T>(p.value, b, h, p.heads)),
        begin_(index * p.segment),
        end_(std::min(p.length(), begin_ + p.segment)),
        decays_(p, b, h),
        state_(static_cast<size_t>(width_ * value_width_)),
        scaled_(static_cast<size_t>(p.chunk * width_)) {}

  T* state() { return state_.data(); }
  double decay() const { return decay_; }  // of the whole segment, once it has run

  // Only the state: S' of the segment.
  void gather() {
    each_chunk([&](int64_t i, int64_t n) { advance(i, n); });
  }

  // Where a segment puts its trace; all null without a partner.
  struct Probe {
    Matrix<T> partner;
    T* dots = nullptr;
    T* across = nullptr;
    T* states = nullptr;  // of the head's first chunk
    T* borders = nullptr;
  };

  void run(Matrix<T> q, Matrix<T> out, const Probe& probe) {
    std::vector<T> room(static_cast<size_t>(p_.chunk * p_.chunk));
    std::vector<T> own(static_cast<size_t>(p_.chunk));  // weights of tokens for themselves
    const Matrix<T> scores{room.data(), p_.chunk};
    const T inter = p_.backward ? T{1} : static_cast<T>(p_.scale);
    each_chunk([&](int64_t at, int64_t n) {
      const Matrix<T> o = out.from(at);
      if (probe.dots != nullptr) trace_state(probe, at / p_.chunk);
      scale_rows(q.from(at), n, [&](int64_t i) { return decays_.of_query(i) * inter; });
      product<T>(n, value_width_, width_, 1, scaled(), state_matrix(), 0, o);
      trace_rows(probe, probe.across, o, at, n);
      product<T>(n, n, width_, p_.scale, q.from(at), k_.from(at).t(), 0, scores);
      for (int64_t i = 0; i < n; ++i) decays_.weigh(scores.row(i), i);
      if (probe.dots != nullptr) {
        for (int64_t i = 0; i < n; ++i)
          own[static_cast<size_t>(i)] = std::exchange(scores.row(i)[i], T{0});
      }
      product<T>(n, value_width_, n, 1, scores, v_.from(at), 1, o);
      trace_rows(probe, probe.dots, o, at, n);
      if (probe.dots != nullptr) {
        for (int64_t i = 0; i < n; ++i) {
          add_row(o.row(i), v_.row(at + i), own[static_cast<size_t>(i)]);
        }
      }
      advance(at, n);
    });
  }

 private:
  Matrix<T> scaled() { return {scaled_.data(), std::max<int64_t>(1, width_)}; }
  Matrix<T> state_matrix() { return {state_.data(), std::max<int64_t>(1, value_width_)}; }

  void add_row(T* to, const T* from, T weight) const {
#pragma omp simd
    for (int64_t d = 0; d < value_width_; ++d) to[d] += weight * from[d];
  }

  void trace_rows(const Probe& probe, T* dots, Matrix<T> o, int64_t at, int64_t n) const {
    for (int64_t i = 0; dots != nullptr && i < n; ++i) {
      dots[at + i] = dot(o.row(i), probe.partner.row(at + i), value_width_);
    }
  }

  void trace_state(const Probe& probe, int64_t chunk) {
    const int64_t size = width_ * value_width_;
    T* states = probe.states + chunk * size;
    if (p_.backward) {
      probe.borders[chunk] = decays_.total() * dot(states, state_.data(), size);
    } else {
      std::copy_n(state_.data(), size, states);
    }
  }

  template <class Fn>
  void each_chunk(const Fn& fn) {
    const int64_t count = (end_ - begin_ + p_.chunk - 1) / p_.chunk;
    for (int64_t c = 0; c < count; ++c) {
      const int64_t at = begin_ + (p_.backward ? count - 1 - c : c) * p_.chunk;
      decays_.set(at, std::min(p_.chunk, end_ - at));
      fn(at, std::min(p_.chunk, end_ - at));
      decay_ *= static_cast<double>(decays_.total());
    }
  }

  template <class Factor>
  void scale_rows(Matrix<T> x, int64_t n, const Factor& factor) {
    for (int64_t i = 0; i < n; ++i) {
      const T f = factor(i);
      const T* from = x.row(i);
      T* to = scaled_.data() + i * width_;
#pragma omp simd
      for (int64_t d = 0; d < width_; ++d) to[d] = f * from[d];
    }
  }

  void advance(int64_t at, int64_t n) {
    scale_rows(k_.from(at), n, [&](int64_t j) { return decays_.of_key(j); });
    for (T& s : state_) s *= decays_.total();
    product<T>(width_, value_width_, n, p_.backward ? p_.scale : 1, scaled().t(), v_.from(at), 1,
               state_matrix());
  }

  const Pass& p_;
  int64_t width_, value_width_;
  Matrix<T> k_, v_;
  int64_t begin_, end_;
  Decays<T> decays_;
  double decay_ = 1;
  std::vector<T> state_, scaled_;
};

int64_t work_of(const Pass& p) {
  return p.batch() * p.heads * p.length() * (p.width() + p.value_width());
}

Pass with_dense_rows(Pass p) {
  if (p.query.defined()) p.query = engine::with_dense_rows(p.query);
  p.key = engine::with_dense_rows(p.key);
  p.value = engine::with_dense_rows(p.value);
  return p;
}

// Slot s of `states` takes what segment s adds, then, in the order of the pass, what enters it.
template <class T>
void fill_states(const Pass& p, const Tensor& first, const Tensor& states) {
  const int64_t count = p.segments(), size = p.width() * p.value_width();
  const int64_t heads = p.batch() * p.heads;
  std::vector<T> decays(static_cast<size_t>(heads * count));
  parallel_for(heads * count, count == 1 ? 0 : work_of(p), [&](int64_t t) {
    const int64_t s = t % count;
    if (s == p.last_segment()) return;  // nothing comes after it
    Segment<T> segment(p, t / count / p.heads, t / count % p.heads, s);
    segment.gather();
    std::copy_n(segment.state(), size, states.data<T>() + t * size);
    decays[static_cast<size_t>(t)] = static_cast<T>(segment.decay());
  });
  parallel_for(heads, heads * count * size, [&](int64_t t) {
    std::vector<T> carry(static_cast<size_t>(size));
    if (first.defined()) std::copy_n(first.data<T>() + t * size, size, carry.data());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t s = t * count + (p.backward ? count - 1 - i : i);
      T* slot = states.data<T>() + s * size;
      if (i == count - 1) {
        std::copy_n(carry.data(), size, slot);
        continue;
      }
      const T decay = decays[static_cast<size_t>(s)];
      for (int64_t e = 0; e < size; ++e) {
        T& c = carry[static_cast<size_t>(e)];
        c = decay * c + std::exchange(slot[e], c);
      }
    }
  });
}

template <class T>
typename Segment<T>::Probe probe_of(const Pass& p, const Tensor& partner, const Trace& trace,
                                    int64_t b, int64_t h) {
  if (!partner.defined()) return {};
  const int64_t head = b * p.heads + h, rows = p.batch() * p.heads * p.length();
  T* dots = trace.dots.data<T>() + head * p.length();
  return {head_of<T>(partner, b, h, p.heads), dots, dots + rows,
          trace.chunk_states.data<T>() + head * p.chunks() * p.width() * p.value_width(),
          p.backward ? trace.borders.data<T>() + head * p.chunks() : nullptr};
}

template <class T>
void fill_sums(const Pass& p, const Tensor& states, const Tensor& partner, const Sums& r) {
  const int64_t count = p.segments(), size = p.width() * p.value_width();
  parallel_for(p.batch() * p.heads * count, 2 * work_of(p), [&](int64_t t) {
    const int64_t b = t / count / p.heads, h = t / count % p.heads, s = t % count;
    Segment<T> segment(p, b, h, s);
    const Tensor own = views::select(views::select(views::select(states, 0, b), 0, h), 0, s);
    const Strides& strides = own.strides();
    for (int64_t i = 0; i < size; ++i) {
      const int64_t row = i / p.value_width(), column = i % p.value_width();
      segment.state()[i] = own.data<T>()[row * strides[0] + column * strides[1]];
    }
    segment.run(head_of<T>(p.query, b, h, p.heads), head_of<T>(r.output, b, h, p.heads),
                probe_of<T>(p, partner, r.trace, b, h));
    if (r.state.defined() && s == p.last_segment()) {
      std::copy_n(segment.state(), size, r.state.data<T>() + (b * p.heads + h) * size);
    }
  });
}

template <class T>
void fill_decay_gradient(const Pass& p, const Trace& of_query, const Trace& of_key,
                         const Tensor& result) {
  const int64_t count = p.chunks(), n = p.length(), rows = result.numel();
  parallel_for(p.batch() * p.heads * count, rows, [&](int64_t t) {
    const int64_t head = t / count, begin = t % count * p.chunk;
    const int64_t end = std::min(n, begin + p.chunk);
    const T* query = of_query.dots.data<T>() + head * n;
    const T* key = of_key.dots.data<T>() + head * n;
    const T* across = key + rows;
    double sum = static_cast<double>(of_key.borders.data<T>()[t]);
    for (int64_t i = begin; i < end; ++i) sum += static_cast<double>(across[i]);
    for (int64_t i = end - 1; i >= begin; --i) {
      sum += static_cast<double>(query[i]) - static_cast<double>(key[i]);
      result.data<T>()[head * n + i] = static_cast<T>(sum);
    }
  });
}

}  // namespace

void choose_lengths(Pass& p, int64_t chunk) {
  if constexpr (kCuda) {
    if (p.key.device().is_cuda()) return choose_lengths_cuda(p);
  }
  p.chunk = chunk > 0 ? chunk : kChunk;
  const int64_t heads = std::max<int64_t>(1, p.batch() * p.heads);
  const int64_t segments = std::clamp<int64_t>(kTasks / heads, 1, 1 + p.length() / kShortest);
  const int64_t chunks = (p.length() + p.chunk - 1) / p.chunk;
  p.segment = p.chunk * std::max<int64_t>(1, (chunks + segments - 1) / segments);
}

Tensor states(const Pass& pass, const Tensor& first) {
  const DType dtype = state_dtype(pass.key.dtype());
  if (pass.segments() == 1 && first.defined()) {
    return views::unsqueeze(kernels::contiguous(first), 2);
  }
  const Tensor r =
      empty({pass.batch(), pass.heads, pass.segments(), pass.width(), pass.value_width()},
            {dtype, pass.key.device()});
  const Tensor entering = first.defined() ? kernels::contiguous(first) : first;
  if constexpr (kCuda) {
    if (r.device().is_cuda()) {
      states_cuda(pass, entering, r);
      return r;
    }
  }
  const Pass p = with_dense_rows(pass);
  visit_floating("linear_attention", dtype, [&]<class T>() { fill_states<T>(p, entering, r); });
  return r;
}

Sums sums(const Pass& pass, const Tensor& states, bool wants_state, const Tensor& partner,
          const Tensor& chunk_states) {
  if constexpr (kCuda) {
    if (states.device().is_cuda()) {
      return sums_cuda(pass, states, wants_state, partner, chunk_states);
    }
  }
  const Pass p = with_dense_rows(pass);
  const Options options{p.key.dtype(), p.key.device()};
  const int64_t batch = p.batch(), width = p.width(), value_width = p.value_width();
  Sums r;
  r.output =
      engine::empty_heads({batch, p.heads, p.length(), value_width}, options.dtype, options.device);
  if (wants_state) r.state = empty({batch, p.heads, width, value_width}, options);
  if (partner.defined()) {
    r.trace.dots = empty({2, 1, batch, p.heads, p.length()}, options);
    r.trace.chunk_states = p.backward
                               ? chunk_states
                               : empty({batch, p.heads, p.chunks(), width, value_width}, options);
    if (p.backward) r.trace.borders = empty({1, batch, p.heads, p.chunks()}, options);
  }
  const Tensor other = partner.defined() ? engine::with_dense_rows(partner) : partner;
  visit_floating("linear_attention", p.key.dtype(),
                 [&]<class T>() { fill_sums<T>(p, states, other, r); });
  return r;
}

Tensor decay_gradient(const Pass& pass, const Trace& of_query, const Trace& of_key) {
  const Tensor r = empty({pass.batch(), pass.heads, pass.length()},
                         {of_query.dots.dtype(), of_query.dots.device()});
  if constexpr (kCuda) {
    if (r.device().is_cuda()) {
      decay_gradient_cuda(pass, of_query, of_key, r);
      return r;
    }
  }
  visit_floating("linear_attention", r.dtype(),
                 [&]<class T>() { fill_decay_gradient<T>(pass, of_query, of_key, r); });
  return r;
}

}  // namespace tessera::linear_engine
