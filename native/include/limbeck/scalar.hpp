// Scalar functions that loops over floats can vectorise; other types use the standard library.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "limbeck/dual.hpp"

#define LIMBECK_RESTRICT __restrict__
#if defined(__clang__)
#define LIMBECK_SIMD _Pragma("clang loop vectorize(assume_safety)")
#else
#define LIMBECK_SIMD _Pragma("GCC ivdep")
#endif

namespace LIMBECK_ISA {

inline limbeck::Dual exponential(limbeck::Dual x) { return exp(x); }
inline limbeck::Dual root(limbeck::Dual x) { return sqrt(x); }
inline double root(double x) { return std::sqrt(x); }
inline float root(float x) { return std::sqrt(x); }

// exp for the sigmoid: the float version is a polynomial without branches, so that loops over it
// vectorise (relative error below 1e-6 on [-20, 20]; arguments are clamped to [-87, 88]; Cephes' scheme:
// x = n ln 2 + r with |r| <= ln 2 / 2, and 2^n put into the exponent bits).
inline double exponential(double x) { return std::exp(x); }
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = std::floor(x * 1.44269504f + 0.5f);
  const float r = x - n * 0.693147181f;  // one term: sums may be reordered here, so a split would not hold
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

template <class T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

// sin(pi x) and cos(pi x).
template <class T>
inline void sincos_pi(T x, T &s, T &c) {
  using std::cos;
  using std::sin;
  s = sin(x * T(M_PI));
  c = cos(x * T(M_PI));
}
// For 0 <= x <= 1, which is all that a distance within the cutoff needs: Taylor series around 1/2, absolute
// error below 2e-7 (the rounding of x itself costs as much).
inline void sincos_pi(float x, float &s, float &c) {
  const float y = (x - 0.5f) * float(M_PI), z = y * y;
  s = 1 + z * (-1 / 2.0f + z * (1 / 24.0f + z * (-1 / 720.0f + z * (1 / 40320.0f + z * (-1 / 3628800.0f +
                                                                                        z / 479001600.0f)))));
  c = -y *
      (1 + z * (-1 / 6.0f +
                z * (1 / 120.0f +
                     z * (-1 / 5040.0f + z * (1 / 362880.0f + z * (-1 / 39916800.0f + z / 6227020800.0f))))));
}

}  // namespace LIMBECK_ISA
