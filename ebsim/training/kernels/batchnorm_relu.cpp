// BatchNorm (statistics of the batch) and ReLU over channels_last memory, forward and backward, with the selection of
// channels before them if there is one. Every function works on rows [begin, end) of a matrix [rows, channels].
//
// Channels rarely are a multiple of a vector (a ticket has 13, 45, ...). So R rows are handled as one run of
// P = R * channels numbers, P a multiple of 16, with the numbers of each channel repeated R times: no loop has a rest.
// Sums are taken in float over short runs, around a value near the mean, and the runs are added in double.
// Compiled without fast-math: NaN and infinity go through as in torch.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VBMI2__)
#include <immintrin.h>
#define VECTOR_SELECTION 1
#endif

namespace {

constexpr int64_t kLane = 16;       // floats in a vector
constexpr int64_t kLeast = 512;     // numbers in a run, at least, so that a loop is worth its start
constexpr int64_t kMost = 2048;     // and at most, so that what belongs to the channels stays in the first cache
constexpr int64_t kRun = 64;        // additions in float before a sum goes to double
constexpr int64_t kSlack = 64;      // numbers that a vector store may write beyond the end of a buffer

using bf16 = uint16_t;

inline float wide(float x) { return x; }
inline float wide(bf16 x) {
  uint32_t bits = static_cast<uint32_t>(x) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
template <class T> inline T narrow(float x);
template <> inline float narrow<float>(float x) { return x; }
template <> inline bf16 narrow<bf16>(float x) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<bf16>((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

// The gradient g of ReLU(y): 0 where y <= 0; by its bits, since compilers make a conditional load of the plain choice.
inline float passed(float g, float y) {
  uint32_t bits;
  std::memcpy(&bits, &g, 4);
  bits &= y <= 0.f ? 0u : 0xffffffffu;
  std::memcpy(&g, &bits, 4);
  return g;
}

int64_t repeats(int64_t channels) {
  const int64_t whole = kLane / std::gcd(channels, kLane);
  if (whole * channels > kMost) return 1;  // a rest of less than a vector in more than a hundred channels
  return whole * std::max<int64_t>(1, (kLeast + whole * channels - 1) / (whole * channels));
}

std::vector<float> repeated(const float* values, int64_t channels, int64_t r) {
  std::vector<float> out(r * channels);
  for (int64_t i = 0; i < r; ++i) std::memcpy(&out[i * channels], values, channels * sizeof(float));
  return out;
}

// kept: for each of `width` channels whether it is selected; nullptr: all
struct Selection {
  int64_t width, channels;
  std::vector<int32_t> index;
#ifdef VECTOR_SELECTION
  std::vector<uint64_t> words;  // a bit per channel
#endif
  Selection(const uint8_t* kept, int64_t width_, int64_t channels_) : width(width_), channels(channels_) {
    for (int64_t i = 0; i < width; ++i)
      if (kept[i]) index.push_back(static_cast<int32_t>(i));
#ifdef VECTOR_SELECTION
    words.assign(width / 64 + 1, 0);
    for (int32_t i : index) words[i / 64] |= uint64_t{1} << (i % 64);
#endif
  }
#ifdef VECTOR_SELECTION
  template <int N> uint32_t bits(int64_t at) const {  // of channels at .. at + N - 1, N dividing 64
    uint64_t found = words[at / 64] >> (at % 64);
    return static_cast<uint32_t>(found & ((uint64_t{1} << N) - 1));
  }
  // may write up to kSlack numbers beyond `out + channels`
  void pick(const float* row, float* out) const {
    for (int64_t at = 0; at < width; at += 16) {
      uint32_t here = bits<16>(at);
      __mmask16 valid = width - at >= 16 ? 0xffff : static_cast<__mmask16>((1u << (width - at)) - 1);
      _mm512_storeu_ps(out, _mm512_maskz_compress_ps(static_cast<__mmask16>(here), _mm512_maskz_loadu_ps(valid, row + at)));
      out += __builtin_popcount(here);
    }
  }
  void pick(const bf16* row, bf16* out) const {
    for (int64_t at = 0; at < width; at += 32) {
      uint32_t here = bits<32>(at);
      __mmask32 valid = width - at >= 32 ? 0xffffffffu : static_cast<__mmask32>((1u << (width - at)) - 1);
      _mm512_storeu_si512(out, _mm512_maskz_compress_epi16(here, _mm512_maskz_loadu_epi16(valid, row + at)));
      out += __builtin_popcount(here);
    }
  }
  // may read up to kSlack numbers beyond `row + channels`
  void spread(const float* row, float* out) const {
    for (int64_t at = 0; at < width; at += 16) {
      uint32_t here = bits<16>(at);
      __mmask16 valid = width - at >= 16 ? 0xffff : static_cast<__mmask16>((1u << (width - at)) - 1);
      _mm512_mask_storeu_ps(out + at, valid, _mm512_maskz_expand_ps(static_cast<__mmask16>(here), _mm512_loadu_ps(row)));
      row += __builtin_popcount(here);
    }
  }
  void spread(const bf16* row, bf16* out) const {
    for (int64_t at = 0; at < width; at += 32) {
      uint32_t here = bits<32>(at);
      __mmask32 valid = width - at >= 32 ? 0xffffffffu : static_cast<__mmask32>((1u << (width - at)) - 1);
      _mm512_mask_storeu_epi16(out + at, valid, _mm512_maskz_expand_epi16(here, _mm512_loadu_si512(row)));
      row += __builtin_popcount(here);
    }
  }
#else
  template <class T> void pick(const T* row, T* out) const {
    for (int64_t c = 0; c < channels; ++c) out[c] = row[index[c]];
  }
  template <class T> void spread(const T* row, T* out) const {
    for (int64_t i = 0; i < width; ++i) out[i] = T(0);
    for (int64_t c = 0; c < channels; ++c) out[index[c]] = row[c];
  }
#endif
};

// Two streams of numbers to be read: the processor's own prefetching follows one, so the next runs are asked for.
template <class T> inline void ask_for(const T* x, int64_t count) {
  const char* at = reinterpret_cast<const char*>(x);
  for (int64_t i = 0; i < count * static_cast<int64_t>(sizeof(T)); i += 64) __builtin_prefetch(at + i);
}

// Adds float sums over runs of rows to double ones.
struct Sums {
  int64_t channels, p;
  std::vector<float> first, second;
  double* out;
  Sums(int64_t channels_, int64_t p_, double* out_) : channels(channels_), p(p_), first(p_), second(p_), out(out_) {}
  void flush() {
    for (int64_t at = 0; at < p; at += channels) {
      for (int64_t c = 0; c < channels; ++c) {
        out[c] += first[at + c];
        out[channels + c] += second[at + c];
      }
    }
    std::fill(first.begin(), first.end(), 0.f);
    std::fill(second.begin(), second.end(), 0.f);
  }
};

template <class T>
void add_moments(const T* __restrict x, const float* __restrict around, float* __restrict a, float* __restrict b,
                 int64_t p) {
  for (int64_t j = 0; j < p; ++j) {
    float d = wide(x[j]) - around[j];
    a[j] += d;
    b[j] += d * d;
  }
}

template <class T>
void stats(const T* x, int64_t width, const uint8_t* kept, int64_t channels, int64_t begin, int64_t end, T* picked,
           const float* around, double* sums) {
  const int64_t r = repeats(channels), p = r * channels;
  std::vector<float> centre = repeated(around, channels, r);
  Sums total(channels, p, sums);
  int64_t row = begin, runs = 0;
  if (kept == nullptr) {
    for (; row + r <= end; row += r) {
      add_moments(x + row * channels, centre.data(), total.first.data(), total.second.data(), p);
      if (++runs % kRun == 0) total.flush();
    }
    if (row < end) add_moments(x + row * channels, centre.data(), total.first.data(), total.second.data(), (end - row) * channels);
    total.flush();
    return;
  }
  const Selection selection(kept, width, channels);
  std::vector<T> buffer(p + kSlack);
  for (; row < end; row += r) {
    const int64_t rows = std::min(r, end - row);
    for (int64_t i = 0; i < rows; ++i) selection.pick(x + (row + i) * width, buffer.data() + i * channels);
    std::memcpy(picked + row * channels, buffer.data(), rows * channels * sizeof(T));
    add_moments(buffer.data(), centre.data(), total.first.data(), total.second.data(), rows * channels);
    if (++runs % kRun == 0) total.flush();
  }
  total.flush();
}

template <class T>
void apply_run(const T* __restrict x, const float* __restrict scale, const float* __restrict shift, T* __restrict out,
               int64_t p) {
  for (int64_t j = 0; j < p; ++j) {
    float v = wide(x[j]) * scale[j] + shift[j];
    out[j] = narrow<T>(v < 0.f ? 0.f : v);
  }
}

template <class T>
void apply(const T* x, int64_t channels, int64_t begin, int64_t end, const float* scale, const float* shift, T* out) {
  const int64_t r = repeats(channels), p = r * channels;
  std::vector<float> s = repeated(scale, channels, r), t = repeated(shift, channels, r);
  int64_t row = begin;
  for (; row + r <= end; row += r) apply_run(x + row * channels, s.data(), t.data(), out + row * channels, p);
  if (row < end) apply_run(x + row * channels, s.data(), t.data(), out + row * channels, (end - row) * channels);
}

template <class T>
void add_gradients(const T* __restrict x, const T* __restrict g, const float* __restrict scale,
                   const float* __restrict shift, const float* __restrict mean, float* __restrict a,
                   float* __restrict b, int64_t p) {
  for (int64_t j = 0; j < p; ++j) {
    float v = wide(x[j]), d = passed(wide(g[j]), v * scale[j] + shift[j]);
    a[j] += d;
    b[j] += d * (v - mean[j]);
  }
}

template <class T>
void gradient_sums(const T* x, const T* g, int64_t channels, int64_t begin, int64_t end, const float* scale,
                   const float* shift, const float* mean, double* sums) {
  const int64_t r = repeats(channels), p = r * channels;
  std::vector<float> s = repeated(scale, channels, r), t = repeated(shift, channels, r), m = repeated(mean, channels, r);
  Sums total(channels, p, sums);
  int64_t row = begin, runs = 0;
  for (; row < end; row += r) {
    const int64_t at = row * channels, count = std::min(r, end - row) * channels;
    if (row + 3 * r <= end) ask_for(x + at + 2 * p, p), ask_for(g + at + 2 * p, p);
    add_gradients(x + at, g + at, s.data(), t.data(), m.data(), total.first.data(), total.second.data(), count);
    if (++runs % kRun == 0) total.flush();
  }
  total.flush();
}

template <class T>
void gradient_run(const T* __restrict x, const T* __restrict g, const float* __restrict scale,
                  const float* __restrict shift, const float* __restrict mean, const float* __restrict slope,
                  const float* __restrict level, T* __restrict out, int64_t p) {
  for (int64_t j = 0; j < p; ++j) {
    float v = wide(x[j]), d = passed(wide(g[j]), v * scale[j] + shift[j]);
    out[j] = narrow<T>(scale[j] * d + (slope[j] * (v - mean[j]) + level[j]));
  }
}

template <class T>
void gradient(const T* x, const T* g, int64_t channels, int64_t begin, int64_t end, const float* scale,
              const float* shift, const float* mean, const float* slope, const float* level, T* out, int64_t width,
              const uint8_t* kept) {
  const int64_t r = repeats(channels), p = r * channels;
  std::vector<float> s = repeated(scale, channels, r), t = repeated(shift, channels, r), m = repeated(mean, channels, r),
                     a = repeated(slope, channels, r), b = repeated(level, channels, r);
  if (kept == nullptr) {
    for (int64_t row = begin; row < end; row += r) {
      const int64_t at = row * channels, count = std::min(r, end - row) * channels;
      if (row + 3 * r <= end) ask_for(x + at + 2 * p, p), ask_for(g + at + 2 * p, p);
      gradient_run(x + at, g + at, s.data(), t.data(), m.data(), a.data(), b.data(), out + at, count);
    }
    return;
  }
  const Selection selection(kept, width, channels);
  std::vector<T> buffer(p + kSlack);
  for (int64_t row = begin; row < end; row += r) {
    const int64_t at = row * channels, rows = std::min(r, end - row);
    gradient_run(x + at, g + at, s.data(), t.data(), m.data(), a.data(), b.data(), buffer.data(), rows * channels);
    for (int64_t i = 0; i < rows; ++i) selection.spread(buffer.data() + i * channels, out + (row + i) * width);
  }
}

template <class T>
void near_mean(const T* x, int64_t width, const uint8_t* kept, int64_t rows, float* around) {
  const int64_t some = std::min<int64_t>(rows, 32);
  for (int64_t i = 0, c = 0; i < width; ++i) {
    if (kept != nullptr && !kept[i]) continue;
    float sum = 0;
    for (int64_t row = 0; row < some; ++row) sum += wide(x[row * width + i]);
    around[c++] = sum / static_cast<float>(some);
  }
}

}  // namespace

#define ANY(...) \
  if (is_bf16) { using T = bf16; __VA_ARGS__; } else { using T = float; __VA_ARGS__; }

extern "C" {

void ebsim_near_mean(int is_bf16, const void* x, int64_t width, const uint8_t* kept, int64_t rows, float* around) {
  ANY(near_mean(static_cast<const T*>(x), width, kept, rows, around))
}

void ebsim_stats(int is_bf16, const void* x, int64_t width, const uint8_t* kept, int64_t channels, int64_t begin,
                 int64_t end, void* picked, const float* around, double* sums) {
  ANY(stats(static_cast<const T*>(x), width, kept, channels, begin, end, static_cast<T*>(picked), around, sums))
}

// sums [parts, 2, channels] -> mean, 1 / standard deviation, scale, shift; the running statistics move on
void ebsim_normalizer(const double* sums, int64_t parts, int64_t channels, int64_t rows, const float* around,
                      const float* weight, const float* bias, double eps, double momentum, float* running_mean,
                      float* running_var, float* mean, float* invstd, float* scale, float* shift) {
  for (int64_t c = 0; c < channels; ++c) {
    double first = 0, second = 0;
    for (int64_t i = 0; i < parts; ++i) {
      first += sums[i * 2 * channels + c];
      second += sums[i * 2 * channels + channels + c];
    }
    const double n = static_cast<double>(rows), offset = first / n, m = around[c] + offset;
    double var = second / n - offset * offset;
    if (var < 0) var = 0;
    const double inv = 1.0 / std::sqrt(var + eps);
    mean[c] = static_cast<float>(m);
    invstd[c] = static_cast<float>(inv);
    scale[c] = static_cast<float>(weight[c] * inv);
    shift[c] = static_cast<float>(bias[c] - m * weight[c] * inv);
    if (running_mean != nullptr) {
      running_mean[c] = static_cast<float>((1 - momentum) * running_mean[c] + momentum * m);
      running_var[c] = static_cast<float>((1 - momentum) * running_var[c] + momentum * var * (n / (n - 1)));
    }
  }
}

void ebsim_apply(int is_bf16, const void* x, int64_t channels, int64_t begin, int64_t end, const float* scale,
                 const float* shift, void* out) {
  ANY(apply(static_cast<const T*>(x), channels, begin, end, scale, shift, static_cast<T*>(out)))
}

void ebsim_gradient_sums(int is_bf16, const void* x, const void* g, int64_t channels, int64_t begin, int64_t end,
                         const float* scale, const float* shift, const float* mean, double* sums) {
  ANY(gradient_sums(static_cast<const T*>(x), static_cast<const T*>(g), channels, begin, end, scale, shift, mean, sums))
}

// sums [parts, 2, channels] -> gradients of weight and bias, and the line that the input gradient needs
void ebsim_gradient_terms(const double* sums, int64_t parts, int64_t channels, int64_t rows, const float* scale,
                          const float* invstd, float* weight_gradient, float* bias_gradient, float* slope,
                          float* level) {
  for (int64_t c = 0; c < channels; ++c) {
    double first = 0, second = 0;
    for (int64_t i = 0; i < parts; ++i) {
      first += sums[i * 2 * channels + c];
      second += sums[i * 2 * channels + channels + c];
    }
    const double n = static_cast<double>(rows), inv = invstd[c];
    bias_gradient[c] = static_cast<float>(first);
    weight_gradient[c] = static_cast<float>(second * inv);
    slope[c] = static_cast<float>(-scale[c] * inv * inv * second / n);
    level[c] = static_cast<float>(-scale[c] * first / n);
  }
}

void ebsim_gradient(int is_bf16, const void* x, const void* g, int64_t channels, int64_t begin, int64_t end,
                    const float* scale, const float* shift, const float* mean, const float* slope, const float* level,
                    void* out, int64_t width, const uint8_t* kept) {
  ANY(gradient(static_cast<const T*>(x), static_cast<const T*>(g), channels, begin, end, scale, shift, mean, slope,
               level, static_cast<T*>(out), width, kept))
}
}
