// Dual numbers a + b eps with eps^2 = 0: the source for forces then also gives their exact
// derivative along a direction, a Hessian-vector product.
#pragma once

#include <cmath>

namespace limbeck {

struct Dual {
  double value = 0, slope = 0;
  Dual() = default;
  Dual(double v) : value(v) {}  // NOLINT: a number is a dual number without a slope
  Dual(double v, double s) : value(v), slope(s) {}
  explicit operator double() const { return value; }
  Dual &operator+=(const Dual &o) { return *this = Dual(value + o.value, slope + o.slope); }
  Dual &operator-=(const Dual &o) { return *this = Dual(value - o.value, slope - o.slope); }
  Dual &operator*=(const Dual &o) { return *this = Dual(value * o.value, slope * o.value + value * o.slope); }
  Dual operator-() const { return Dual(-value, -slope); }
};

inline Dual operator+(Dual a, const Dual &b) { return a += b; }
inline Dual operator-(Dual a, const Dual &b) { return a -= b; }
inline Dual operator*(Dual a, const Dual &b) { return a *= b; }
inline Dual operator/(const Dual &a, const Dual &b) {
  const double q = a.value / b.value;
  return Dual(q, (a.slope - q * b.slope) / b.value);
}
inline bool operator<(const Dual &a, const Dual &b) { return a.value < b.value; }
inline bool operator>(const Dual &a, const Dual &b) { return a.value > b.value; }
inline Dual sqrt(const Dual &a) {
  const double root = std::sqrt(a.value);
  return Dual(root, a.slope / (2 * root));
}
inline Dual exp(const Dual &a) {
  const double e = std::exp(a.value);
  return Dual(e, e * a.slope);
}
inline Dual sin(const Dual &a) { return Dual(std::sin(a.value), std::cos(a.value) * a.slope); }
inline Dual cos(const Dual &a) { return Dual(std::cos(a.value), -std::sin(a.value) * a.slope); }

}  // namespace limbeck
