// One evolving structure: neighbour list with a skin, buffers, and the passes over atoms and pairs.
//
// Threads share atoms by ranges of centres. What a thread's pairs add to another thread's atoms goes to
// rows of its own behind the atoms ("foreign" rows) and is added by the owner in a fixed order: no atomics,
// and the same sums at each call with the same number of threads.
#pragma once

#include <chrono>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "limbeck/messages.hpp"
#include "limbeck/network.hpp"

namespace LIMBECK_ISA {

using limbeck::Exchange;
using limbeck::NeighbourList;
using limbeck::Results;

// Number type of positions: double, or a dual number where one flows through.
template <class T>
using Real = std::conditional_t<std::is_arithmetic<T>::value, double, T>;

template <class T>
class Structure {
 public:
  using G = Real<T>;

  Structure(std::shared_ptr<const Packed<T>> weights, int threads)
      : w_(std::move(weights)), threads_(std::max(1, threads)), seconds_(limbeck::kPhases.size(), 0.0) {}

  void set_exchange(Exchange *exchange) { exchange_ = exchange; }

  void set_list(const NeighbourList &list) {
    ready_ = false;  // should this fail half way
    if (list.pairs > std::size_t(std::numeric_limits<int>::max() / 2))
      throw std::invalid_argument("more pairs than an index holds");
    owned_ = list.owned, total_ = list.total;
    reach_ = w_->model.hp.cutoff + list.skin;
    periodic_ = list.fully_periodic;
    made_at_.assign(list.positions, list.positions + 3 * std::size_t(total_));
    std::copy_n(list.cell, 9, made_in_);
    order_atoms(list);
    sort_pairs(list);
    share_centres();
    fit_buffers();
  }

  bool covers(const double *positions, const double *cell) const {
    if (!ready_) return false;
    // An affine change of a periodic cell moves atoms along; the list then loses the strain's share of its
    // reach. |d F| >= s |d| with s >= 1 - |F - 1| for the deformation F.
    double strain[9] = {}, stretch = 0;
    bool moved_cell = false;
    for (int e = 0; e < 9; ++e) moved_cell |= cell[e] != made_in_[e];
    if (moved_cell) {
      double inverse[9];
      if (!periodic_ || !invert(made_in_, inverse)) return false;
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) {
          double sum = a == b ? -1 : 0;
          for (int c = 0; c < 3; ++c) sum += inverse[3 * a + c] * cell[3 * c + b];
          strain[3 * a + b] = sum;
          stretch += sum * sum;
        }
      stretch = std::sqrt(stretch);
    }
    double farthest = 0;
    for (int i = 0; i < total_; ++i) {
      const double *x = positions + 3 * std::size_t(i), *y = made_at_.data() + 3 * std::size_t(i);
      double d2 = 0;
      for (int c = 0; c < 3; ++c) {
        double d = x[c] - y[c];
        if (moved_cell) d -= y[0] * strain[c] + y[1] * strain[3 + c] + y[2] * strain[6 + c];
        d2 += d * d;
      }
      farthest = std::max(farthest, d2);
    }
    return (1 - stretch) * reach_ - 2 * std::sqrt(farthest) >= w_->model.hp.cutoff;
  }

  // positions (total, 3) and cell (3, 3) as G.
  void evaluate(const G *positions, const G *cell, Results &out) {
    if (!ready_) throw std::logic_error("set_list() comes before evaluate()");
    if (dirty_) clean();
    dirty_ = true;  // until the end: an exception leaves sums that the next call must not find
    out_ = &out;
    profile_ = out.want_seconds;
    std::fill(seconds_.begin(), seconds_.end(), 0.0);
    if (out.want_atom_virial) {
      const std::size_t rows = 9 * (std::size_t(total_) + foreign_.size());
      if (atom_virial_.size() < rows) atom_virial_.resize(rows);
    }
    const int L = w_->L;
    phase(kGeometry, [&](int t) { geometry(t, positions, cell); });
    for (const Part &part : parts_)
      if (part.closest < 1e-6) throw std::invalid_argument("two atoms are at the same place");
    phase(kMessages, [&](int t) { forward_edges(0, t); });
    for (int l = 0; l + 1 < L; ++l) {
      phase(kUpdates, [&](int t) { update(l, t); });
      if (exchange_) exchange_->forward(source_[l + 1].data(), sizeof(T), 6 * w_->F, 6 * w_->F);
      phase(kMessages, [&](int t) { forward_edges(l + 1, t); });
    }
    phase(kUpdates, [&](int t) { last_update(t); });
    for (int l = L - 1; l > 0; --l) {
      phase(kAdjoints, [&](int t) { backward_edges(l, t); });
      if (exchange_) {
        phase(kUpdateAdjoints, [&](int t) { gather(parts_[t], back_, 5 * w_->F); });
        exchange_->reverse(back_.data(), sizeof(T), 5 * w_->F, 5 * w_->F);
        std::fill(back_.begin() + std::size_t(owned_) * 5 * w_->F,
                  back_.begin() + std::size_t(total_) * 5 * w_->F, T(0));
      }
      phase(kUpdateAdjoints, [&](int t) { update_back(l - 1, t); });
    }
    phase(kAdjoints, [&](int t) {
      backward_edges(0, t);
      scatter(t);
    });
    phase(kForces, [&](int t) { gather_forces(t); });
    collect();
    dirty_ = false;
  }

  const Array<G> &forces() const { return force_; }  // sorted order, see place()
  std::size_t place(int atom) const { return order_.empty() ? atom : place_[atom]; }
  int total() const { return total_; }

  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto *a : {&sum_h_, &sum_v_, &back_, &unit_, &distance_, &pull_})
      sum += a->capacity() * sizeof(T);
    for (const auto *group : {&source_, &mixed_, &gate_})
      for (const auto &a : *group) sum += a.capacity() * sizeof(T);
    for (const auto *a : {&species_, &self_, &start_, &second_, &slot_, &shift_, &atom_, &active_slot_})
      sum += a->capacity() * sizeof(int);
    return sum + (force_.capacity() + energy_.capacity()) * sizeof(G) + made_at_.capacity() * sizeof(double);
  }

 private:
  enum { kGeometry, kMessages, kUpdates, kAdjoints, kUpdateAdjoints, kForces };

  // A thread's share: centres [begin, end), their pairs in the list and the foreign rows they touch.
  struct Part {
    int begin = 0, end = 0;
    std::size_t pairs = 0, active = 0;
    std::vector<std::pair<int, int>> incoming;  // (owned row, foreign row), to be added by this part
    std::vector<G> shortest;
    double closest = 0;
    G virial[9];
    Scratch<T> scratch;
  };

  std::shared_ptr<const Packed<T>> w_;
  int threads_, owned_ = 0, total_ = 0;
  bool ready_ = false, dirty_ = false, periodic_ = false, profile_ = false;
  double reach_ = 0, made_in_[9] = {};
  std::vector<double> made_at_, seconds_;
  Exchange *exchange_ = nullptr;
  Results *out_ = nullptr;

  std::vector<int> order_, place_;  // sorted -> given, given -> sorted; empty where they are the same
  std::vector<int> species_, self_;
  std::vector<int> start_, middle_;  // (owned + 1), (owned): list entries of a centre, two-way first
  std::vector<int> second_, slot_, shift_,
      foreign_;                                    // per list entry; foreign_: the atom behind a foreign row
  std::vector<int> first_active_, middle_active_;  // per centre, entries within the cutoff
  std::vector<int> atom_, active_slot_;
  Array<T> unit_, distance_, pull_;
  Array<T> sum_h_, sum_v_, back_;
  std::vector<Array<T>> source_, mixed_, gate_;
  Array<G> force_, energy_, atom_virial_;
  std::vector<Part> parts_;

  // list and partition

  // Neighbours in space become neighbours in memory.
  void order_atoms(const NeighbourList &list) {
    order_.clear(), place_.clear();
    if (list.total != list.owned || list.owned < 256) return;
    double low[3], high[3];
    for (int c = 0; c < 3; ++c) low[c] = 1e300, high[c] = -1e300;
    std::vector<double> folded(3 * std::size_t(owned_));
    double inverse[9];
    const bool fold = periodic_ && invert(list.cell, inverse);
    for (int i = 0; i < owned_; ++i) {
      const double *x = list.positions + 3 * std::size_t(i);
      double *y = &folded[3 * std::size_t(i)];
      for (int c = 0; c < 3; ++c) {
        y[c] = x[c];
        if (fold) {
          const double s = x[0] * inverse[c] + x[1] * inverse[3 + c] + x[2] * inverse[6 + c];
          const double length =
              std::sqrt(list.cell[3 * c] * list.cell[3 * c] + list.cell[3 * c + 1] * list.cell[3 * c + 1] +
                        list.cell[3 * c + 2] * list.cell[3 * c + 2]);
          y[c] = (s - std::floor(s)) * length;
        }
        low[c] = std::min(low[c], y[c]), high[c] = std::max(high[c], y[c]);
      }
    }
    const double width = reach_ / 2;
    std::vector<std::pair<long long, int>> keys(owned_);
    // Morton's order: ranges of atoms are compact in all three directions
    for (int i = 0; i < owned_; ++i) {
      long long key = 0;
      for (int a = 0; a < 3; ++a) {
        const double at = (folded[3 * std::size_t(i) + a] - low[a]) / width;
        key |= spread(static_cast<long long>(std::min(at, 2097151.0))) << a;
      }
      keys[i] = {key, i};
    }
    std::sort(keys.begin(), keys.end());
    order_.resize(owned_), place_.resize(owned_);
    for (int k = 0; k < owned_; ++k) order_[k] = keys[k].second, place_[keys[k].second] = k;
  }

  // Two zero bits behind each of the lowest 21 bits.
  static long long spread(long long x) {
    x = (x | x << 32) & 0x1f00000000ffff;
    x = (x | x << 16) & 0x1f0000ff0000ff;
    x = (x | x << 8) & 0x100f00f00f00f00f;
    x = (x | x << 4) & 0x10c30c30c30c30c3;
    return (x | x << 2) & 0x1249249249249249;
  }

  // The list by centre: the atom that comes first in memory; two-way pairs before one-way pairs.
  void sort_pairs(const NeighbourList &list) {
    const auto where = [&](int a) { return order_.empty() ? a : place_[a]; };
    species_.resize(total_), self_.resize(total_);
    for (int i = 0; i < total_; ++i) species_[where(i)] = list.species[i];
    std::iota(self_.begin(), self_.end(), 0);
    start_.assign(owned_ + 1, 0), middle_.assign(owned_, 0);
    std::vector<int> two_way(owned_, 0);
    for (std::size_t p = 0; p < list.pairs; ++p) {
      const int i = where(list.first[p]), j = where(list.second[p]);
      const bool both = i != j && j < owned_;
      const int centre = both ? std::min(i, j) : i;
      start_[centre + 1] += i == j ? 2 : 1;
      two_way[centre] += both;
    }
    std::partial_sum(start_.begin(), start_.end(), start_.begin());
    const std::size_t entries = start_[owned_];
    second_.resize(entries), slot_.resize(entries), shift_.resize(3 * entries);
    std::vector<int> next(start_.begin(), start_.end() - 1), next_one_way(owned_);
    for (int i = 0; i < owned_; ++i) middle_[i] = next_one_way[i] = start_[i] + two_way[i];
    const auto put_entry = [&](int at, int j, const int *shift, int sign) {
      second_[at] = j;
      for (int c = 0; c < 3; ++c) shift_[3 * std::size_t(at) + c] = shift ? sign * shift[c] : 0;
    };
    for (std::size_t p = 0; p < list.pairs; ++p) {
      const int i = where(list.first[p]), j = where(list.second[p]);
      const int *shift = list.shift ? list.shift + 3 * p : nullptr;
      if (i == j) {  // an atom's own image stands on both sides of it
        put_entry(next_one_way[i]++, i, shift, 1);
        put_entry(next_one_way[i]++, i, shift, -1);
      } else if (j >= owned_) {
        put_entry(next_one_way[i]++, j, shift, 1);
      } else if (i < j) {
        put_entry(next[i]++, j, shift, 1);
      } else {
        put_entry(next[j]++, i, shift, -1);
      }
    }
  }

  void share_centres() {
    const int count = std::max(1, std::min(threads_, owned_ / 16));
    parts_.resize(count);
    const std::size_t entries = start_[owned_];
    int at = 0;
    for (int t = 0; t < count; ++t) {
      // an atom costs about as much as fourteen pairs
      const double share = (entries + 14.0 * owned_) * (t + 1) / count;
      parts_[t].begin = at;
      while (at < owned_ && (t + 1 == count || start_[at + 1] + 14.0 * (at + 1) <= share)) ++at;
      parts_[t].end = at;
      parts_[t].incoming.clear();
      parts_[t].pairs = start_[parts_[t].begin];
      parts_[t].scratch.fit(*w_, Lanes<T>::width);
    }
    foreign_.clear();
    std::vector<int> seen(total_, -1);
    for (int t = 0; t < count; ++t) {
      const std::size_t first_row = foreign_.size();
      for (int e = start_[parts_[t].begin]; e < start_[parts_[t].end]; ++e) {
        const int j = second_[e];
        const bool own = j >= parts_[t].begin && (j < parts_[t].end || t + 1 == count);
        if (own) {
          slot_[e] = j;
          continue;
        }
        if (seen[j] < int(first_row)) seen[j] = int(foreign_.size()), foreign_.push_back(j);
        slot_[e] = total_ + seen[j];
      }
    }
    // the last part also takes the copies of other processes' atoms
    for (std::size_t k = 0; k < foreign_.size(); ++k)
      for (int t = 0; t < count; ++t)
        if (foreign_[k] >= parts_[t].begin && (foreign_[k] < parts_[t].end || t + 1 == count)) {
          parts_[t].incoming.emplace_back(foreign_[k], total_ + int(k));
          break;
        }
  }

  void fit_buffers() {
    const std::size_t rows = std::size_t(total_) + foreign_.size(), F = w_->F, entries = start_[owned_];
    const auto fit = [](auto &a, std::size_t n) { a.assign(n, {}); };
    first_active_.assign(owned_ + 1, 0), middle_active_.assign(owned_, 0);
    atom_.resize(entries), active_slot_.resize(entries);
    fit(unit_, 3 * entries), fit(distance_, entries), fit(pull_, 3 * entries);
    fit(sum_h_, rows * F), fit(sum_v_, rows * 3 * F);
    fit(force_, rows * 3), fit(energy_, rows);
    source_.resize(w_->L), mixed_.resize(w_->L), gate_.resize(w_->L);
    if (w_->L > 1) fit(back_, rows * 5 * F);
    for (int l = 1; l < w_->L; ++l) {
      fit(source_[l], std::size_t(total_) * 6 * F);
      fit(mixed_[l - 1], std::size_t(owned_) * 6 * F);
      fit(gate_[l - 1], std::size_t(owned_) * w_->H);
    }
    atom_virial_.clear();
    for (Part &part : parts_) part.shortest.reserve(std::size_t(w_->Z) * w_->Z);
    dirty_ = false;
    ready_ = true;
  }

  // Foreign rows and adjoints are zero between calls.
  void clean() {
    const std::size_t F = w_->F, total = std::size_t(total_);
    const auto zero = [total](auto &rows, std::size_t width) {
      if (!rows.empty()) std::fill(rows.begin() + total * width, rows.end(), 0);
    };
    zero(sum_h_, F), zero(sum_v_, 3 * F), zero(force_, 3), zero(energy_, 1);
    std::fill(back_.begin(), back_.end(), T(0));
    std::fill(atom_virial_.begin(), atom_virial_.end(), G(0));
  }

  static bool invert(const double *m, double *inverse) {
    const auto minor = [&](int a, int b) {
      const int r0 = (a + 1) % 3, r1 = (a + 2) % 3, c0 = (b + 1) % 3, c1 = (b + 2) % 3;
      return m[3 * r0 + c0] * m[3 * r1 + c1] - m[3 * r0 + c1] * m[3 * r1 + c0];
    };
    const double determinant = m[0] * minor(0, 0) + m[1] * minor(0, 1) + m[2] * minor(0, 2);
    if (!(std::abs(determinant) > 1e-12)) return false;
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b) inverse[3 * b + a] = minor(a, b) / determinant;
    return true;
  }

  template <class Work>
  void phase(int name, Work work) {
    std::chrono::steady_clock::time_point began;
    if (profile_) began = std::chrono::steady_clock::now();
    const int count = int(parts_.size());
    // whatever number of threads the runtime gives, each part is done once
#ifdef _OPENMP
#pragma omp parallel for schedule(static, 1) num_threads(count) if (count > 1 && !limbeck::forked())
#endif
    for (int t = 0; t < count; ++t) work(t);
    if (profile_)
      seconds_[name] += std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }

  // passes

  void geometry(int t, const G *positions, const G *cell) {
    Part &part = parts_[t];
    const Model &model = w_->model;
    const int Z = w_->Z, F = w_->F;
    const double cutoff2 = model.hp.cutoff * model.hp.cutoff;
    part.shortest.assign(std::size_t(Z) * Z, G(std::numeric_limits<double>::infinity()));
    part.closest = std::numeric_limits<double>::infinity();
    std::fill_n(part.virial, 9, G(0));
    const std::size_t last_row = t + 1 == int(parts_.size()) ? total_ : part.end;
    std::fill(force_.begin() + 3 * std::size_t(part.begin), force_.begin() + 3 * last_row, G(0));
    for (int i = part.begin; i < part.end; ++i) {
      energy_[i] = G(model.references[species_[i]]);
      std::copy_n(&w_->embedding[std::size_t(species_[i]) * F], F, &sum_h_[std::size_t(i) * F]);
      std::fill_n(&sum_v_[std::size_t(i) * 3 * F], 3 * F, T(0));
    }
    std::size_t at = part.pairs;
    for (int i = part.begin; i < part.end; ++i) {
      const G *xi = positions + 3 * std::size_t(order_.empty() ? i : order_[i]);
      first_active_[i] = int(at);
      for (int e = start_[i]; e < start_[i + 1]; ++e) {
        if (e == middle_[i]) middle_active_[i] = int(at);
        const int j = second_[e];
        const G *xj = positions + 3 * std::size_t(order_.empty() ? j : order_[j]);
        const int *s = &shift_[3 * std::size_t(e)];
        G d[3];
        for (int c = 0; c < 3; ++c) d[c] = xj[c] - xi[c];
        if (s[0] | s[1] | s[2])
          for (int c = 0; c < 3; ++c)
            d[c] += G(s[0]) * cell[c] + G(s[1]) * cell[3 + c] + G(s[2]) * cell[6 + c];
        const G r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
        if (!(r2 < G(cutoff2))) continue;
        using std::sqrt;
        const G r = sqrt(r2);
        G &shortest = part.shortest[std::size_t(species_[i]) * Z + species_[j]];
        if (r < shortest) shortest = r;
        atom_[at] = j, active_slot_[at] = slot_[e];
        distance_[at] = T(r);
        const G inverse = G(1) / r;
        for (int c = 0; c < 3; ++c) unit_[3 * at + c] = T(d[c] * inverse), pull_[3 * at + c] = T(0);
        if (double(r) < model.longest_zbl) repel(i, e, at, r);
        ++at;
      }
      if (middle_[i] == start_[i + 1]) middle_active_[i] = int(at);
    }
    part.active = at;
    for (const G &r : part.shortest) part.closest = std::min(part.closest, double(r));
  }

  // Ziegler, Biersack, Littmark (1985) between close atoms, switched off between half the radius and the
  // radius by 1 - 10 x^3 + 15 x^4 - 6 x^5. A one-way pair stands twice, so it counts half.
  void repel(int i, int e, std::size_t at, const G &r) {
    using std::exp;
    const Model &model = w_->model;
    const int a = species_[i], b = species_[second_[e]];
    const double radius = model.zbl_radius[std::size_t(a) * w_->Z + b];
    if (!(double(r) < radius)) return;
    const double za = model.numbers[a], zb = model.numbers[b];
    const double length = 0.8854 * 0.529177210903 / (std::pow(za, 0.23) + std::pow(zb, 0.23));
    const double weight[4] = {0.18175, 0.50986, 0.28022, 0.02817},
                 rate[4] = {3.19980, 0.94229, 0.40290, 0.20162};
    G screen(0), slope(0);
    for (int k = 0; k < 4; ++k) {
      const G term = G(weight[k]) * exp(-(G(rate[k] / length) * r));
      screen += term;
      slope -= G(rate[k] / length) * term;
    }
    const G bare = G(14.399645478 * za * zb) / r;
    const G energy = bare * screen, force = bare * (slope - screen / r);
    const double half = radius / 2;
    G x = (r - G(half)) / G(half);
    if (x < G(0)) x = G(0);
    const G on = G(1) + x * x * x * (G(-10) + x * (G(15) - G(6) * x));
    const G don = x * x * (G(-30) + x * (G(60) - G(30) * x)) / G(half);
    const bool both = e < middle_[i];
    const G part = energy * on * G(0.5);
    energy_[i] += part;
    if (both) energy_[slot_[e]] += part;
    const G along = (force * on + energy * don) * G(both ? 1.0 : 0.5);
    for (int c = 0; c < 3; ++c) pull_[3 * at + c] += T(along) * unit_[3 * at + c];
  }

  // Calls work(run, both) for each run of pairs of one centre, filters of a batch computed just before.
  template <int NP, bool BACK>
  void over_pairs(int l, int t) {
    Part &part = parts_[t];
    Scratch<T> &k = part.scratch;
    const auto &layer = w_->layers[l];
    const int F = w_->F, wide = NP * F;
    Run<T> run{};
    run.atom = atom_.data(), run.slot = active_slot_.data(), run.unit = unit_.data();
    run.source = NP == 2 ? species_.data() : self_.data();
    run.sources = NP == 2 ? w_->first_source.data() : source_[l].data();
    run.filter = k.filter.data(), run.h = sum_h_.data(), run.v = sum_v_.data();
    run.back = back_.data(), run.along = k.along.data(), run.F = F;
    int i = part.begin;
    for (std::size_t base = part.pairs; base < part.active; base += kBatch) {
      const std::size_t stop = std::min(part.active, base + kBatch);
      const int count = int(stop - base);
      radial_basis<BACK>(*w_, count, &distance_[base], k);
      gemm<T, false>(count, wide, w_->K, k.basis.data(), 1, kBatch, layer.filter.data(), wide, run.filter,
                     wide);
      run.base = base;
      for (std::size_t p = base; p < stop;) {
        while (last_of(part, i) <= p) ++i;
        run.centre = i;
        const std::size_t middle = std::min<std::size_t>(middle_active_[i], stop);
        const std::size_t last = std::min(last_of(part, i), stop);
        if (p < middle) {
          run.first = p, run.last = middle;
          if (BACK)
            message_adjoints<NP, true>(run);
          else
            messages<NP, true>(run);
        }
        run.first = std::max(p, middle), run.last = last;
        if (run.first < run.last) {
          if (BACK)
            message_adjoints<NP, false>(run);
          else
            messages<NP, false>(run);
        }
        p = last;
      }
      if (BACK) pull(layer, wide, base, count, k);
    }
  }

  std::size_t last_of(const Part &part, int i) const {
    return i + 1 == part.end ? part.active : std::size_t(first_active_[i + 1]);
  }

  // dE/d(vector) of a batch of pairs from the adjoints of their filters and unit vectors.
  void pull(const typename Packed<T>::Layer &layer, int wide, std::size_t base, int count, Scratch<T> &k) {
    const int pad = w_->pad;
    constexpr int W = Lanes<T>::width;
    gemm<T, false>(count, pad, wide, k.filter.data(), wide, 1, layer.filter_t.data(), pad, k.pulled.data(),
                   pad);
    for (int p = 0; p < count; ++p) {
      const T *g = &k.pulled[std::size_t(p) * pad], *db = &k.slope[std::size_t(p) * pad];
      T radial(0), b[3];
      for (int n = 0; n < pad; ++n) radial += g[n] * db[n];
      for (int c = 0; c < 3; ++c) {
        const T *x = &k.along[(std::size_t(p) * 3 + c) * W];
        T sum(0);
        for (int e = 0; e < W; ++e) sum += x[e];
        b[c] = sum;
      }
      const T *u = &unit_[3 * (base + p)];
      const T bu = b[0] * u[0] + b[1] * u[1] + b[2] * u[2];
      const T inverse = T(1) / distance_[base + p];
      for (int c = 0; c < 3; ++c) pull_[3 * (base + p) + c] += radial * u[c] + (b[c] - bu * u[c]) * inverse;
    }
  }

  void forward_edges(int l, int t) {
    if (l == 0)
      over_pairs<2, false>(l, t);
    else
      over_pairs<3, false>(l, t);
  }
  void backward_edges(int l, int t) {
    if (l == 0)
      over_pairs<2, true>(l, t);
    else
      over_pairs<3, true>(l, t);
  }

  // Adds the foreign rows that belong to this part and leaves them at zero.
  template <class A>
  void gather(const Part &part, A &rows, int width) {
    for (const auto &[to, from] : part.incoming) {
      auto *x = rows.data() + std::size_t(to) * width, *y = rows.data() + std::size_t(from) * width;
      LIMBECK_SIMD
      for (int f = 0; f < width; ++f) x[f] += y[f], y[f] = 0;
    }
  }

  void update(int l, int t) {
    Part &part = parts_[t];
    Scratch<T> &k = part.scratch;
    const int F = w_->F, H = w_->H;
    const auto &layer = w_->layers[l], &next = w_->layers[l + 1];
    gather(part, sum_h_, F), gather(part, sum_v_, 3 * F);
    for (int i0 = part.begin; i0 < part.end; i0 += kBlock) {
      const int n = std::min(kBlock, part.end - i0);
      T *h = &sum_h_[std::size_t(i0) * F], *v = &sum_v_[std::size_t(i0) * 3 * F];
      T *mixed = &mixed_[l][std::size_t(i0) * 6 * F], *gate = &gate_[l][std::size_t(i0) * H];
      T *to = &source_[l + 1][std::size_t(i0) * 6 * F];
      update_inner(*w_, layer, n, h, v, mixed, gate, k);
      update_outer<T>(layer, F, H, n, k);
      for (int i = 0; i < n; ++i) {
        const T *a = &k.a[std::size_t(i) * 3 * F], *q = &k.q[std::size_t(i) * F],
                *m = mixed + std::size_t(i) * 6 * F;
        T *hi = h + std::size_t(i) * F, *vi = v + std::size_t(i) * 3 * F,
          *s = to + std::size_t(i) * 6 * F + 3 * F;
        LIMBECK_SIMD
        for (int f = 0; f < F; ++f) {
          hi[f] += a[f] + a[F + f] * q[f];
          for (int c = 0; c < 3; ++c) {
            const T x = vi[c * F + f] + a[2 * F + f] * m[2 * c * F + f];
            vi[c * F + f] = x;
            s[c * F + f] = x;
          }
        }
      }
      gemm<T, false>(n, 3 * F, F, h, F, 1, next.phi.data(), 3 * F, to, 6 * F);
      for (int i = 0; i < n; ++i) LIMBECK_SIMD
      for (int f = 0; f < 3 * F; ++f) to[std::size_t(i) * 6 * F + f] += next.phi_bias[f];
    }
  }

  // The last update, the readout and the way back through both, a block at a time: nothing is kept.
  void last_update(int t) {
    Part &part = parts_[t];
    Scratch<T> &k = part.scratch;
    const int F = w_->F, H = w_->H, R = w_->R;
    const auto &layer = w_->layers[w_->L - 1];
    const T scale = T(w_->model.hp.energy_scale);
    gather(part, sum_h_, F), gather(part, sum_v_, 3 * F), gather(part, energy_, 1);
    for (int i0 = part.begin; i0 < part.end; i0 += kBlock) {
      const int n = std::min(kBlock, part.end - i0);
      T *h = &sum_h_[std::size_t(i0) * F], *v = &sum_v_[std::size_t(i0) * 3 * F];
      update_inner(*w_, layer, n, h, v, k.mixed.data(), k.t.data(), k);
      update_outer<T>(layer, F, H, n, k);
      for (int i = 0; i < n; ++i) {
        const T *a = &k.a[std::size_t(i) * 2 * F], *q = &k.q[std::size_t(i) * F],
                *hi = h + std::size_t(i) * F;
        LIMBECK_SIMD
        for (int f = 0; f < F; ++f) k.h[std::size_t(i) * F + f] = hi[f] + a[f] + a[F + f] * q[f];
      }
      gemm<T, false>(n, R, F, k.h.data(), F, 1, w_->read1.data(), R, k.rt.data(), R);
      for (int i = 0; i < n; ++i) {
        T *y = &k.rt[std::size_t(i) * R], *s = &k.rs[std::size_t(i) * R];
        LIMBECK_SIMD
        for (int f = 0; f < R; ++f) {
          const T x = y[f] + w_->read1_bias[f], g = sigmoid(x);
          s[f] = x * g * w_->read2[f];
          y[f] = scale * w_->read2[f] * (g + x * g * (T(1) - g));
        }
        G sum(w_->read2_bias);
        for (int f = 0; f < R; ++f) sum += G(s[f]);
        energy_[i0 + i] += sum * G(w_->model.hp.energy_scale);
      }
      gemm<T, false>(n, F, R, k.rt.data(), R, 1, w_->read1_t.data(), F, k.h.data(), F);
      update_adjoint<2>(*w_, layer, n, k.mixed.data(), k.t.data(), h, v, k);
    }
  }

  // From the adjoints of what layer l + 1 received and sent to the adjoints of what layer l received.
  void update_back(int l, int t) {
    Part &part = parts_[t];
    Scratch<T> &k = part.scratch;
    const int F = w_->F, H = w_->H;
    const auto &layer = w_->layers[l], &next = w_->layers[l + 1];
    gather(part, back_, 5 * F);
    for (int i0 = part.begin; i0 < part.end; i0 += kBlock) {
      const int n = std::min(kBlock, part.end - i0);
      T *h = &sum_h_[std::size_t(i0) * F], *v = &sum_v_[std::size_t(i0) * 3 * F];
      const T *mixed = &mixed_[l][std::size_t(i0) * 6 * F], *gate = &gate_[l][std::size_t(i0) * H];
      for (int i = 0; i < n; ++i) {
        T *b = &back_[std::size_t(i0 + i) * 5 * F];
        const T *s = &source_[l + 1][std::size_t(i0 + i) * 6 * F], *vi = v + std::size_t(i) * 3 * F;
        const T *hi = h + std::size_t(i) * F, *m = mixed + std::size_t(i) * 6 * F;
        T *phib = &k.phib[std::size_t(i) * 3 * F], *hb = &k.h[std::size_t(i) * F],
          *vb = &k.v[std::size_t(i) * 3 * F];
        T *q = &k.q[std::size_t(i) * F], *x = &k.x[std::size_t(i) * 2 * F];
        const T e2 = T(w_->model.hp.norm_offset * w_->model.hp.norm_offset);
        LIMBECK_SIMD
        for (int f = 0; f < F; ++f) {
          T sum(0), dot(0), square = e2;
          for (int c = 0; c < 3; ++c) {
            const T carried = b[(2 + c) * F + f], y = m[(2 * c + 1) * F + f];
            sum += carried * s[(3 + c) * F + f];
            vb[c * F + f] = vi[c * F + f] + s[2 * F + f] * carried;
            dot += m[2 * c * F + f] * y;
            square += y * y;
          }
          phib[f] = b[f], phib[F + f] = b[F + f], phib[2 * F + f] = sum;
          hb[f] = hi[f];
          q[f] = dot;
          x[F + f] = root(square);
        }
        std::fill_n(b, 5 * F, T(0));
      }
      gemm<T, true>(n, F, 3 * F, k.phib.data(), 3 * F, 1, next.phi_t.data(), F, k.h.data(), F);
      LIMBECK_SIMD
      for (int e = 0; e < n * H; ++e) k.s[e] = gate[e] * sigmoid(gate[e]);
      update_outer<T>(layer, F, H, n, k);
      update_adjoint<3>(*w_, layer, n, mixed, gate, h, v, k);
    }
  }

  void scatter(int t) {
    Part &part = parts_[t];
    for (int i = part.begin; i < part.end; ++i)
      for (std::size_t p = first_active_[i]; p < last_of(part, i); ++p) {
        G *fi = &force_[3 * std::size_t(i)], *fj = &force_[3 * std::size_t(active_slot_[p])];
        G g[3], d[3];
        for (int c = 0; c < 3; ++c) {
          g[c] = G(pull_[3 * p + c]);
          d[c] = G(unit_[3 * p + c]) * G(distance_[p]);
          fi[c] += g[c];
          fj[c] -= g[c];
        }
        for (int a = 0; a < 3; ++a)
          for (int b = 0; b < 3; ++b) {
            const G x = g[a] * d[b];
            part.virial[3 * a + b] += x;
            if (out_->want_atom_virial) {
              atom_virial_[9 * std::size_t(i) + 3 * a + b] += G(0.5) * x;
              atom_virial_[9 * std::size_t(active_slot_[p]) + 3 * a + b] += G(0.5) * x;
            }
          }
      }
  }

  void gather_forces(int t) {
    gather(parts_[t], force_, 3);
    if (out_->want_atom_virial) gather(parts_[t], atom_virial_, 9);
  }

  void collect() {
    Results &out = *out_;
    out.forces.resize(3 * std::size_t(total_)), out.atom_energy.resize(owned_);
    out.shortest.assign(std::size_t(w_->Z) * w_->Z, std::numeric_limits<double>::infinity());
    double virial[9] = {};
    for (const Part &part : parts_) {
      for (int e = 0; e < 9; ++e) virial[e] += double(part.virial[e]);
      for (int a = 0; a < w_->Z; ++a)
        for (int b = 0; b < w_->Z; ++b) {
          double &x = out.shortest[std::size_t(a) * w_->Z + b];
          x = std::min({x, double(part.shortest[a * w_->Z + b]), double(part.shortest[b * w_->Z + a])});
        }
    }
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b) out.virial[3 * a + b] = 0.5 * (virial[3 * a + b] + virial[3 * b + a]);
    out.energy = 0;
    for (int k = 0; k < total_; ++k) {
      const std::size_t i = order_.empty() ? k : order_[k];
      for (int c = 0; c < 3; ++c) out.forces[3 * i + c] = double(force_[3 * std::size_t(k) + c]);
      if (k < owned_) {
        out.atom_energy[i] = double(energy_[k]);
        out.energy += out.atom_energy[i];
      }
    }
    if (out.want_atom_virial) {
      out.atom_virial.resize(9 * std::size_t(total_));
      for (int k = 0; k < total_; ++k) {
        const std::size_t i = order_.empty() ? k : order_[k];
        for (int a = 0; a < 3; ++a)
          for (int b = 0; b < 3; ++b) {
            G &x = atom_virial_[9 * std::size_t(k) + 3 * a + b],
              &y = atom_virial_[9 * std::size_t(k) + 3 * b + a];
            out.atom_virial[9 * i + 3 * a + b] = 0.5 * (double(x) + double(y));
          }
      }
      std::fill(atom_virial_.begin(), atom_virial_.end(), G(0));
    }
    if (profile_) out.seconds = seconds_;
  }
};

}  // namespace LIMBECK_ISA
