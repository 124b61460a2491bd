// Passes over the pairs of one structure. Included by system.hpp.
#pragma once

namespace LIMBECK_ISA {

// filter (count, WIDTH) from the basis (K, kBatch) and weights (K, WIDTH). Flattened, so that the kernel
// knows all strides: left to the compiler, it takes a sixth of the filters' time longer.
template <int WIDTH, class T>
__attribute__((flatten)) inline void filter_product(int count, int K, const T *basis, const T *weights,
                                                    T *filter) {
  gemm<T, false>(count, WIDTH, K, basis, 1, kBatch, weights, WIDTH, filter, WIDTH);
}

template <class T>
inline void Structure<T>::geometry(Worker &part) {
  part.seconds.fill(0);
  const Timer timer(profile_, part, kGeometry);
  const Model &model = w_->model;
  const int Z = w_->Z, F = w_->F;
  const double cutoff2 = model.hp.cutoff * model.hp.cutoff;
  part.shortest.assign(std::size_t(Z) * Z, G(std::numeric_limits<double>::infinity()));
  part.closest = std::numeric_limits<double>::infinity();
  std::fill_n(part.virial, 9, G(0));
  const std::size_t last_row = &part == &workers_.back() ? table_.total : part.end;
  std::fill(b_.force.begin() + 3 * std::size_t(part.begin), b_.force.begin() + 3 * last_row, G(0));
  for (int i = part.begin; i < part.end; ++i) {
    b_.energy[i] = G(model.references[table_.species[i]]);
    const T *from = &w_->embedding[std::size_t(table_.species[i]) * F];
    T *to = &b_.sums[std::size_t(i) * 4 * F];
    for (int f0 = 0; f0 < F; f0 += S) {
      std::copy_n(from + f0, S, to + 4 * f0);
      std::fill_n(to + 4 * f0 + S, 3 * S, T(0));
    }
  }
  std::size_t at = part.pairs;
  for (int i = part.begin; i < part.end; ++i) {
    b_.first_active[i] = int(at);
    for (int e = table_.start[i]; e < table_.start[i + 1]; ++e) {
      if (e == table_.middle[i]) b_.middle_active[i] = int(at);
      const int j = table_.atom_of(table_.row[e]);
      G d[3];
      vector(i, j, table_.image[e], d);
      const G r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      if (!(r2 < G(cutoff2))) continue;
      G &shortest =
          part.shortest[std::size_t(table_.species[i]) * Z + table_.species[j]];  // squared until the end
      if (r2 < shortest) shortest = r2;
      b_.active[at] = std::uint16_t(e - table_.start[i]);
      if (double(r2) < model.longest_zbl * model.longest_zbl) repel(part, i, e, d, r2);
      ++at;
    }
    if (table_.middle[i] == table_.start[i + 1]) b_.middle_active[i] = int(at);
  }
  part.active = at;
  for (G &r : part.shortest) {
    using std::sqrt;
    r = G(sqrt(double(r)));
    part.closest = std::min(part.closest, double(r));
  }
}

// Core repulsion of a close pair. A one-way pair is listed twice, so it counts half.
template <class T>
inline void Structure<T>::repel(Worker &part, int i, int e, const G *d, const G &r2) {
  using std::sqrt;
  const Model &model = w_->model;
  const int a = table_.species[i], b = table_.species[table_.atom_of(table_.row[e])];
  const G r = sqrt(r2);
  const double radius = model.zbl_radius[std::size_t(a) * w_->Z + b];
  if (!(double(r) < radius)) return;
  G energy, slope;
  zbl(model.numbers[a], model.numbers[b], radius, r, energy, slope);
  const bool both = e < table_.middle[i];
  const G half_energy = energy * G(0.5);
  b_.energy[i] += half_energy;
  if (both) b_.energy[table_.row[e]] += half_energy;
  G along = slope * G(both ? 1.0 : 0.5) / r, to_neighbour(1);
  if constexpr (!std::is_arithmetic<T>::value)
    if (axis_ >= 0) {  // half of the energy is the neighbour's
      const double x = double(d[axis_]);
      along *= G(1, 0.5 * x), to_neighbour = G(1, -x);
    }
  const G g[3] = {along * d[0], along * d[1], along * d[2]};
  push(part, i, table_.row[e], g, d, to_neighbour);
}

// dE/d(vector) = g of a pair into forces and virial.
template <class T>
inline void Structure<T>::push(Worker &part, int i, int row, const G *g, const G *d, const G &to_neighbour) {
  G *fi = &b_.force[3 * std::size_t(i)], *fj = &b_.force[3 * std::size_t(row)];
  for (int c = 0; c < 3; ++c) {
    fi[c] += g[c];
    if constexpr (std::is_arithmetic<T>::value)
      fj[c] -= g[c];
    else
      fj[c] -= g[c] * to_neighbour;
  }
  for (int a = 0; a < 3; ++a)
    for (int b = 0; b < 3; ++b) part.virial[3 * a + b] += g[a] * d[b];
  if (out_->want_atom_virial)
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b) {
        const G x = G(0.5) * g[a] * d[b];
        b_.atom_virial[9 * std::size_t(i) + 3 * a + b] += x;
        b_.atom_virial[9 * std::size_t(row) + 3 * a + b] += x;
      }
}

// All pairs whose centre is one of the atoms [i0, i0 + n), in batches, slice by slice.
template <class T>
template <int NP, bool BACK>
inline void Structure<T>::over_pairs(int l, Worker &part, int i0, int n) {
  Scratch<T> &k = part.scratch;
  const auto &layer = w_->layers[l];
  const int F = w_->F, K = w_->K;
  const std::size_t end = last_of(part, i0 + n - 1);
  Run<T> run{};
  run.row = k.row.data(), run.atom = k.atom.data(), run.source = k.source.data(),
  run.back_row = k.back_row.data();
  run.unit = k.unit.data(), run.filter = k.filter.data(), run.slope = k.dfilter.data();
  run.along = k.along.data();
  run.to_centre = k.to_centre.data(), run.to_neighbour = k.to_neighbour.data();
  run.sources_width = NP == 2 ? 2 * F : 6 * F, run.sums_width = 4 * F, run.back_width = 5 * F;
  int first_centre = i0;
  for (std::size_t base = b_.first_active[i0]; base < end; base += kBatch) {
    const int count = int(std::min<std::size_t>(end - base, kBatch));
    {
      const Timer timer(profile_, part, kFilters);
      prepare<NP, BACK>(part, first_centre, base, count, k);
      k.radial.template compute<BACK>(w_->model.hp, count);
    }
    int centre = first_centre;
    for (int slice = 0; slice < F / S; ++slice) {
      const T *weights = &layer.filter[std::size_t(slice) * K * NP * S];
      {
        const Timer timer(profile_, part, kFilters);
        filter_product<NP * S>(count, K, k.radial.basis.data(), weights, k.filter.data());
        if (BACK) filter_product<NP * S>(count, K, k.radial.slope.data(), weights, k.dfilter.data());
      }
      const Timer timer(profile_, part, BACK ? kAdjoints : kMessages);
      run.sources = NP == 2 ? &w_->first_source[2 * S * slice] : &b_.source[l][6 * S * slice];
      run.sums = &b_.sums[4 * S * slice];
      if (BACK && NP == 3) run.back = &b_.back[5 * S * slice];
      centre = first_centre;
      for (int p = 0; p < count;) {
        while (last_of(part, centre) <= base + p) ++centre;
        run.centre = centre, run.centre_source = NP == 2 ? table_.species[centre] : centre;
        if (BACK && NP == 3) run.centre_back = b_.back_row[centre];
        const int middle = within(b_.middle_active[centre], base, count);
        const int last = within(last_of(part, centre), base, count);
        if (p < middle) {
          run.first = p, run.last = middle;
          if (BACK)
            message_adjoints<NP, true>(run, slice == 0);
          else
            messages<NP, true>(run);
        }
        if (std::max(p, middle) < last) {
          run.first = std::max(p, middle), run.last = last;
          if (BACK)
            message_adjoints<NP, false>(run, slice == 0);
          else
            messages<NP, false>(run);
        }
        p = last;
      }
    }
    first_centre = centre;
    if (BACK) {
      const Timer timer(profile_, part, kForces);
      pull(part, i0, base, count, k);
    }
  }
}

// Indices and vectors of the batch's pairs, which would take 16 bytes each if kept for all pairs.
template <class T>
template <int NP, bool BACK>
inline void Structure<T>::prepare(const Worker &part, int centre, std::size_t base, int count,
                                  Scratch<T> &k) {
  for (int p = 0; p < count; ++p) {
    while (last_of(part, centre) <= base + p) ++centre;
    const int e = table_.start[centre] + b_.active[base + p], row = table_.row[e], atom = table_.atom_of(row);
    k.row[p] = row, k.atom[p] = atom, k.source[p] = NP == 2 ? table_.species[atom] : atom;
    if (BACK && NP == 3) k.back_row[p] = b_.back_row[row];
    k.radial.core[p] = T(w_->model.hp.core_of(table_.species[centre], table_.species[atom]));
    G d[3];
    vector(centre, atom, table_.image[e], d);
    for (int c = 0; c < 3; ++c) k.vector[3 * p + c] = T(d[c]);
    if constexpr (!std::is_arithmetic<T>::value) {
      const double x = axis_ < 0 ? 0 : double(d[axis_]);
      k.to_centre[p] = T(1, x), k.to_neighbour[p] = T(1, -x);
    }
  }
  const T *d = k.vector.data();
  LIMBECK_SIMD
  for (int p = 0; p < count; ++p) {
    const T x = d[3 * p], y = d[3 * p + 1], z = d[3 * p + 2];
    const T r = root(x * x + y * y + z * z), inverse = T(1) / r;
    k.radial.distance[p] = r;
    k.unit[3 * p] = x * inverse, k.unit[3 * p + 1] = y * inverse, k.unit[3 * p + 2] = z * inverse;
  }
}

// Forces and virial of a batch of pairs from their adjoints.
template <class T>
inline void Structure<T>::pull(Worker &part, int i0, std::size_t base, int count, Scratch<T> &k) {
  constexpr int W = Lanes<T>::width;
  int centre = i0;
  for (int p = 0; p < count; ++p) {
    while (last_of(part, centre) <= base + p) ++centre;
    T sum[4];
    for (int c = 0; c < 4; ++c) {
      const T *x = &k.along[(std::size_t(p) * 4 + c) * W];
      T s(0);
      for (int e = 0; e < W; ++e) s += x[e];
      sum[c] = s;
    }
    const T *u = &k.unit[3 * p], *vector = &k.vector[3 * p];
    const T bu = sum[1] * u[0] + sum[2] * u[1] + sum[3] * u[2], inverse = T(1) / k.radial.distance[p];
    G g[3], d[3];
    for (int c = 0; c < 3; ++c) {
      g[c] = G(sum[0] * u[c] + (sum[1 + c] - bu * u[c]) * inverse);
      d[c] = G(vector[c]);
    }
    if constexpr (std::is_arithmetic<T>::value)
      push(part, centre, k.row[p], g, d, G(1));
    else
      push(part, centre, k.row[p], g, d, k.to_neighbour[p]);
  }
}

template <class T>
template <bool BACK>
inline void Structure<T>::pairs(int l, Worker &part, int i0, int n) {
  if (l == 0)
    over_pairs<2, BACK>(l, part, i0, n);
  else
    over_pairs<3, BACK>(l, part, i0, n);
}

template <class T>
inline void Structure<T>::forward(int l, Worker &part) {
  limbeck::over_blocks(part.begin, part.early, [&](int i0, int n) {
    pairs<false>(l, part, i0, n);
    update(l, part, i0, n);
  });
  limbeck::over_blocks(part.early, part.end, [&](int i0, int n) { pairs<false>(l, part, i0, n); });
}

template <class T>
inline void Structure<T>::forward_late(int l, Worker &part) {
  {
    const Timer timer(profile_, part, kUpdates);
    gather(part, b_.sums, 4 * w_->F);
    if (l + 1 == w_->L) gather(part, b_.energy, 1);
  }
  limbeck::over_blocks(part.early, part.end, [&](int i0, int n) { update(l, part, i0, n); });
}

template <class T>
inline void Structure<T>::backward(int l, Worker &part) {
  const int early = l == 0 ? part.end : exchange_ ? part.begin : part.early;
  limbeck::over_blocks(part.begin, early, [&](int i0, int n) {
    pairs<true>(l, part, i0, n);
    if (l > 0) update_back(l - 1, part, i0, n);
  });
  limbeck::over_blocks(early, part.end, [&](int i0, int n) { pairs<true>(l, part, i0, n); });
}

template <class T>
inline void Structure<T>::backward_late(int l, Worker &part) {
  if (!exchange_) gather_back(part);
  const int early = exchange_ ? part.begin : part.early;
  limbeck::over_blocks(early, part.end, [&](int i0, int n) { update_back(l - 1, part, i0, n); });
}

template <class T>
inline void Structure<T>::gather_back(Worker &part) {
  const Timer timer(profile_, part, kUpdateAdjoints);
  for (const auto &[to, from] : part.incoming)
    add_row(b_.back, b_.back_row[to], b_.back_row[from], 5 * w_->F);
}

}  // namespace LIMBECK_ISA
