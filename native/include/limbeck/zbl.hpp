// Core repulsion after Ziegler, Biersack, Littmark (The Stopping and Range of Ions in Matter, 1985).
#pragma once

#include <cmath>

namespace LIMBECK_ISA {

// Energy (eV) of two nuclei at distance r (Angstrom) and its derivative, switched off between half the radius
// and the radius by 1 - 10 x^3 + 15 x^4 - 6 x^5.
template <class G>
inline void zbl(double za, double zb, double radius, const G &r, G &energy, G &slope) {
  using std::exp;
  const double length = 0.8854 * 0.529177210903 / (std::pow(za, 0.23) + std::pow(zb, 0.23));
  const double weight[4] = {0.18175, 0.50986, 0.28022, 0.02817},
               rate[4] = {3.19980, 0.94229, 0.40290, 0.20162};
  G screen(0), change(0);
  for (int k = 0; k < 4; ++k) {
    const G term = G(weight[k]) * exp(-(G(rate[k] / length) * r));
    screen += term;
    change -= G(rate[k] / length) * term;
  }
  const G bare = G(14.399645478 * za * zb) / r;
  const double half = radius / 2;
  G x = (r - G(half)) / G(half);
  if (x < G(0)) x = G(0);
  const G on = G(1) + x * x * x * (G(-10) + x * (G(15) - G(6) * x));
  const G don = x * x * (G(-30) + x * (G(60) - G(30) * x)) / G(half);
  energy = bare * screen * on;
  slope = bare * (change - screen / r) * on + bare * screen * don;
}

}  // namespace LIMBECK_ISA
