// One evolving structure: neighbour list with a skin, buffers, and the passes over atoms and pairs.
//
// Each thread has a part: a range of atoms and the pairs whose centre is one of them. What a thread's pairs
// add to another part's atoms goes to rows of its own behind the atoms ("foreign" rows) and is added by the
// owner in a fixed order: no atomics, and the same sums at each call with the same number of threads.
//
// Within a part a pair's centre is the atom that comes first, so when the pairs of a block of centres are
// done, these atoms have received everything and are updated at once, still in cache. On the way back the
// adjoint of what an atom sends is complete then too: its row is used again for another atom, so that only
// the atoms between the blocks done and those not yet touched have one. Atoms that other parts or processes
// add to come last in a part and are updated when all threads are through.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <numeric>
#include <stdexcept>

#include "limbeck/messages.hpp"
#include "limbeck/network.hpp"
#include "limbeck/pool.hpp"

namespace LIMBECK_ISA {

using limbeck::Exchange;
using limbeck::NeighbourList;
using limbeck::Results;

// Number type of positions: double, or a dual number where one flows through.
template <class T>
using Real = std::conditional_t<std::is_arithmetic<T>::value, double, T>;

constexpr float kAtomCost = 14;  // an atom's update costs about as much as so many pairs

template <class T>
class Structure {
 public:
  using G = Real<T>;

  Structure(std::shared_ptr<const Packed<T>> weights, int threads)
      : w_(std::move(weights)), threads_(std::max(1, threads)) {}

  void set_exchange(Exchange *exchange) { exchange_ = exchange, listed_ = false; }

  void set_list(const NeighbourList &list) {
    ready_ = listed_ = false;  // should this fail half way
    if (list.pairs > std::size_t(std::numeric_limits<int>::max() / 2))
      throw std::invalid_argument("more pairs than an index holds");
    owned_ = list.owned, total_ = list.total;
    reach_ = w_->model.hp.cutoff + list.skin;
    periodic_ = list.fully_periodic;
    made_at_.assign(list.positions, list.positions + 3 * std::size_t(total_));
    std::copy_n(list.cell, 9, made_in_);
    order_atoms(list);
    share_atoms(list);
    sort_pairs(list);
    assign_rows();
    listed_ = true;
  }

  bool covers(const double *positions, const double *cell) const {
    if (!listed_) return false;
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

  // Gives all memory back; set_list() comes next.
  void release() {
    ready_ = listed_ = false;
    const auto free = [](auto &...arrays) { (std::decay_t<decltype(arrays)>().swap(arrays), ...); };
    free(row_, image_, active_, sums_, back_, force_, energy_, atom_virial_);
    source_.clear(), before_.clear(), gate_.clear();
  }

  // positions (total, 3) and cell (3, 3) as G.
  void evaluate(const G *positions, const G *cell, Results &out) {
    if (!listed_) throw std::logic_error("set_list() comes before evaluate()");
    if (!ready_) fit_buffers();  // not before, so that the caller's list is gone by then
    if (dirty_) clean();
    dirty_ = true;  // until the end: an exception leaves sums that the next call must not find
    out_ = &out, positions_ = positions;
    profile_ = out.want_seconds;
    if (out.want_atom_virial) {
      const std::size_t rows = 9 * (std::size_t(total_) + foreign_.size());
      if (atom_virial_.size() < rows) atom_virial_.resize(rows, G(0));
    }
    for (std::size_t k = 0; k < images_.size(); ++k)
      for (int c = 0; c < 3; ++c)
        offset_[3 * k + c] =
            G(images_[k][0]) * cell[c] + G(images_[k][1]) * cell[3 + c] + G(images_[k][2]) * cell[6 + c];
    const int L = w_->L;
    each([&](Part &part) { geometry(part); });
    for (const Part &part : parts_)
      if (part.closest < 1e-6) throw std::invalid_argument("two atoms are at the same place");
    for (int l = 0; l < L; ++l) {
      each([&](Part &part) { forward(l, part); });
      if (shared_) each([&](Part &part) { forward_late(l, part); });
      if (exchange_ && l + 1 < L) exchange_->forward(source_[l + 1].data(), sizeof(T), 6 * w_->F, 6 * w_->F);
    }
    for (int l = L - 1; l > 0; --l) {
      each([&](Part &part) { backward(l, part); });
      if (exchange_) {
        each([&](Part &part) { gather_back(part); });
        exchange_->reverse(back_.data(), sizeof(T), 5 * w_->F, 5 * w_->F);
        std::fill(back_.begin() + std::size_t(owned_) * 5 * w_->F,
                  back_.begin() + std::size_t(total_) * 5 * w_->F, T(0));
      }
      if (shared_ || exchange_) each([&](Part &part) { backward_late(l, part); });
    }
    each([&](Part &part) { backward(0, part); });
    if (shared_) each([&](Part &part) { gather_forces(part); });
    collect();
    dirty_ = false;
  }

  const Array<G> &forces() const { return force_; }  // sorted order, see place()
  std::size_t place(int atom) const { return order_.empty() ? atom : place_[atom]; }
  int total() const { return total_; }

  std::size_t bytes() const {
    std::size_t sum = (sums_.capacity() + back_.capacity()) * sizeof(T);
    for (const auto *group : {&source_, &before_, &gate_})
      for (const auto &a : *group) sum += a.capacity() * sizeof(T);
    for (const auto *a :
         {&species_, &start_, &middle_, &first_active_, &middle_active_, &order_, &place_, &back_row_})
      sum += a->capacity() * sizeof(int);
    sum += row_.capacity() * sizeof(int) + (image_.capacity() + active_.capacity()) * sizeof(image_[0]);
    return sum + (force_.capacity() + energy_.capacity()) * sizeof(G) + made_at_.capacity() * sizeof(double);
  }

 private:
  enum { kGeometry, kFilters, kMessages, kUpdates, kAdjoints, kUpdateAdjoints, kForces, kPhaseCount };
  static constexpr int S = kSlice<T>;

  // A thread's share: atoms [begin, end), of which those before `early` receive from no other part, their
  // pairs in the list and the foreign rows they touch.
  struct Part {
    int begin = 0, early = 0, end = 0;
    std::size_t pairs = 0, active = 0;
    std::vector<std::pair<int, int>> incoming;  // (owned row, foreign row), to be added by this part
    std::vector<G> shortest;
    double closest = 0;
    G virial[9];
    Scratch<T> scratch;
    std::array<double, kPhaseCount> seconds;
  };

  std::shared_ptr<const Packed<T>> w_;
  int threads_, owned_ = 0, total_ = 0;
  bool listed_ = false, ready_ = false, dirty_ = false, periodic_ = false, profile_ = false;
  bool shared_ = false, copies_ = false;  // several parts; atoms of other processes
  double reach_ = 0, made_in_[9] = {};
  std::vector<double> made_at_;
  Exchange *exchange_ = nullptr;
  Results *out_ = nullptr;

  std::vector<int> order_, place_;  // sorted -> given, given -> sorted; empty where they are the same
  std::vector<int> species_;
  std::vector<int> start_, middle_;  // (owned + 1), (owned): list entries of a centre, two-way first
  Array<int> row_;                   // per list entry: the neighbour, or its foreign row
  Array<std::uint16_t> image_;       // per list entry: which of images_
  std::vector<std::array<int, 3>> images_;
  Array<G> offset_;                                // (images, 3)
  std::vector<int> foreign_;                       // the atom behind a foreign row
  std::vector<int> part_of_;                       // per atom, before late ones moved to the end of a part
  std::vector<int> back_row_;                      // per row: where its adjoint is added up
  std::vector<int> first_active_, middle_active_;  // per centre, entries within the cutoff
  Array<std::uint16_t> active_;                    // which of the centre's entries these are
  const G *positions_ = nullptr;                   // of this evaluation
  Array<T> sums_, back_;
  std::vector<Array<T>> source_, before_, gate_;  // before_, gate_: vectors and gate of each update
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

  // Of a pair within a part the atom that comes first is the centre; pairs of two parts are divided evenly.
  bool centred_on_first(int i, int j, int a, int b, const std::vector<int> &part) const {
    return part.empty() || part[i] == part[j] ? i < j : (a + b) % 2 == 0;
  }

  // Divides the atoms into parts of equal work, and moves those that receive from other parts to their end.
  void share_atoms(const NeighbourList &list) {
    const auto where = [&](int a) { return order_.empty() ? a : place_[a]; };
    const int count = std::max(1, std::min(threads_, owned_ / 16));
    parts_.resize(count);
    shared_ = count > 1, copies_ = total_ > owned_;
    for (Part &part : parts_) part.begin = part.early = part.end = owned_;
    parts_[0].begin = 0;
    part_of_.clear();
    if (shared_) {
      std::vector<float> cost(owned_, kAtomCost);
      for (std::size_t p = 0; p < list.pairs; ++p)
        for (int a : {list.first[p], list.second[p]})
          if (a < owned_) cost[where(a)] += 0.5f;
      double all = 0, sum = 0;
      for (float c : cost) all += c;
      part_of_.resize(owned_);
      for (int i = 0; i < owned_; ++i) {
        part_of_[i] = std::min(count - 1, int(sum / all * count));
        sum += cost[i];
      }
      for (int t = 0, at = 0; t < count; ++t) {
        parts_[t].begin = at;
        while (at < owned_ && part_of_[at] == t) ++at;
        parts_[t].early = parts_[t].end = at;
      }
      if (copies_) {  // rows keep the host's order
        for (Part &part : parts_) part.early = part.begin;
      } else {
        move_late(list);
      }
    }
    for (Part &part : parts_) part.scratch.fit(*w_);
  }

  void move_late(const NeighbourList &list) {
    if (order_.empty()) {
      order_.resize(owned_), place_.resize(owned_);
      std::iota(order_.begin(), order_.end(), 0), std::iota(place_.begin(), place_.end(), 0);
    }
    std::vector<char> late(owned_, 0);
    for (std::size_t p = 0; p < list.pairs; ++p) {
      const int a = list.first[p], b = list.second[p], i = place_[a], j = place_[b];
      if (part_of_[i] != part_of_[j]) late[centred_on_first(i, j, a, b, part_of_) ? j : i] = 1;
    }
    std::vector<int> order;
    order.reserve(owned_);
    for (Part &part : parts_)
      for (char is : {0, 1}) {
        if (is) part.early = int(order.size());
        for (int i = part.begin; i < part.end; ++i)
          if (late[i] == is) order.push_back(order_[i]);
      }
    order_ = std::move(order);
    for (int k = 0; k < owned_; ++k) place_[order_[k]] = k;
    // the same share everywhere: threads wait for each other before the late ones
    double share = 1;
    for (const Part &part : parts_)
      if (part.end > part.begin)
        share = std::min(share, double(part.early - part.begin) / (part.end - part.begin));
    for (Part &part : parts_) part.early = part.begin + int(share * (part.end - part.begin));
  }

  // The list by centre, two-way pairs before one-way pairs.
  void sort_pairs(const NeighbourList &list) {
    const auto where = [&](int a) { return order_.empty() ? a : place_[a]; };
    species_.resize(total_);
    for (int i = 0; i < total_; ++i) species_[where(i)] = list.species[i];
    const ImageTable table(list, images_);
    offset_.resize(3 * images_.size());
    // i: the centre, j: its neighbour, sign: of the shift
    const auto pair = [&](std::size_t p, int &i, int &j, int &sign) {
      const int a = list.first[p], b = list.second[p];
      i = where(a), j = where(b), sign = 1;
      const bool both = i != j && j < owned_;
      if (both && !centred_on_first(i, j, a, b, part_of_)) std::swap(i, j), sign = -1;
      return both;
    };
    start_.assign(owned_ + 1, 0), middle_.assign(owned_, 0);
    std::vector<int> two_way(owned_, 0);
    int i, j, sign;
    for (std::size_t p = 0; p < list.pairs; ++p) {
      const bool both = pair(p, i, j, sign);
      start_[i + 1] += i == j ? 2 : 1;
      two_way[i] += both;
    }
    if (*std::max_element(start_.begin(), start_.end()) > 65535)
      throw std::invalid_argument("an atom has more than 65535 neighbours");
    std::partial_sum(start_.begin(), start_.end(), start_.begin());
    row_.clear(), image_.clear();
    row_.resize(start_[owned_]), image_.resize(start_[owned_]);
    std::vector<int> next(start_.begin(), start_.end() - 1), next_one_way(owned_);
    for (int k = 0; k < owned_; ++k) middle_[k] = next_one_way[k] = start_[k] + two_way[k];
    for (std::size_t p = 0; p < list.pairs; ++p) {
      const bool both = pair(p, i, j, sign);
      int &at = both ? next[i] : next_one_way[i];
      row_[at] = j, image_[at++] = table.index(p, sign);
      if (i == j) row_[at] = j, image_[at++] = table.index(p, -1);
    }
  }

  // Few cell vectors separate an atom from its neighbours' images: a list entry holds a number of this table.
  struct ImageTable {
    const int *shift;
    long long low[3] = {0, 0, 0}, count[3] = {1, 1, 1};
    ImageTable(const NeighbourList &list, std::vector<std::array<int, 3>> &images) : shift(list.shift) {
      for (std::size_t p = 0; shift && p < list.pairs; ++p)
        for (int c = 0; c < 3; ++c) low[c] = std::min(low[c], -std::llabs(shift[3 * p + c]));
      double all = 1;
      for (int c = 0; c < 3; ++c) count[c] = 1 - 2 * low[c], all *= double(count[c]);
      if (all > 65535)
        throw std::invalid_argument("the cell is so thin that the cutoff reaches across " +
                                    std::to_string(*std::max_element(count, count + 3)) +
                                    " images of it; wanted fewer than 65536 of all: repeat the cell");
      images.clear();
      for (long long a = low[0]; a <= -low[0]; ++a)
        for (long long b = low[1]; b <= -low[1]; ++b)
          for (long long c = low[2]; c <= -low[2]; ++c) images.push_back({int(a), int(b), int(c)});
    }
    std::uint16_t index(std::size_t p, int sign) const {
      if (!shift) return 0;
      const int *s = shift + 3 * p;
      return std::uint16_t(((sign * s[0] - low[0]) * count[1] + sign * s[1] - low[1]) * count[2] +
                           sign * s[2] - low[2]);
    }
  };

  // Foreign rows, for what a part adds to atoms of another; the last part owns the copies as well.
  void assign_rows() {
    const int count = int(parts_.size());
    const auto owner = [&](int t, int j) {
      return j >= parts_[t].begin && (j < parts_[t].end || t + 1 == count);
    };
    foreign_.clear();
    std::vector<int> seen(total_, -1);
    for (int t = 0; t < count; ++t) {
      Part &part = parts_[t];
      part.incoming.clear();
      part.pairs = start_[part.begin];
      const std::size_t first_row = foreign_.size();
      for (int e = start_[part.begin]; e < start_[part.end]; ++e) {
        const int j = row_[e];
        if (owner(t, j)) continue;
        if (seen[j] < int(first_row)) seen[j] = int(foreign_.size()), foreign_.push_back(j);
        row_[e] = total_ + seen[j];
      }
    }
    for (std::size_t k = 0; k < foreign_.size(); ++k)
      for (int t = 0; t < count; ++t)
        if (owner(t, foreign_[k])) {
          parts_[t].incoming.emplace_back(foreign_[k], total_ + int(k));
          break;
        }
  }

  // Where each row's adjoint is added up; returns how many such rows there are. With copies: row by row, as
  // the host expects it. Else rows are used again, block by block in the order of backward().
  int assign_back_rows() {
    const int rows = total_ + int(foreign_.size());
    back_row_.assign(rows, -1);
    int count = 0;
    if (exchange_) {
      std::iota(back_row_.begin(), back_row_.end(), 0);
      return rows;
    }
    std::vector<int> unused;
    for (const Part &part : parts_) {
      const auto touch = [&](int row) {
        if (back_row_[row] >= 0) return;
        if (row < part.early && !unused.empty())
          back_row_[row] = unused.back(), unused.pop_back();
        else
          back_row_[row] = count++;
      };
      unused.clear();  // rows that another thread may be using
      over_blocks(part.begin, part.early, [&](int i0, int n) {
        for (int i = i0; i < i0 + n; ++i) touch(i);
        for (int e = start_[i0]; e < start_[i0 + n]; ++e) touch(row_[e]);
        for (int i = i0; i < i0 + n; ++i) unused.push_back(back_row_[i]);
      });
      for (int i = part.early; i < part.end; ++i) touch(i);
      for (int e = start_[part.early]; e < start_[part.end]; ++e) touch(row_[e]);
    }
    return count;
  }

  void fit_buffers() {
    const std::size_t rows = std::size_t(total_) + foreign_.size(), F = w_->F;
    // without what they held, which need not be copied
    const auto fit = [](auto &a, std::size_t n) { a.clear(), a.resize(n); };
    first_active_.assign(owned_ + 1, 0), middle_active_.assign(owned_, 0);
    fit(active_, row_.size());
    fit(sums_, rows * 4 * F), fit(force_, rows * 3), fit(energy_, rows);
    source_.resize(w_->L), before_.resize(w_->L), gate_.resize(w_->L);
    back_.assign(w_->L > 1 ? assign_back_rows() * 5 * F : 0, T(0));
    for (int l = 1; l < w_->L; ++l) {
      fit(source_[l], std::size_t(total_) * 6 * F);
      fit(before_[l - 1], std::size_t(owned_) * 3 * F);
      fit(gate_[l - 1], std::size_t(owned_) * w_->H);
    }
    atom_virial_.clear();
    for (Part &part : parts_) part.shortest.reserve(std::size_t(w_->Z) * w_->Z);
    clean();
    dirty_ = false;
    ready_ = true;
  }

  // Foreign rows and adjoints are zero between calls.
  void clean() {
    const std::size_t F = w_->F, total = std::size_t(total_);
    const auto zero = [total](auto &rows, std::size_t width) {
      if (!rows.empty()) std::fill(rows.begin() + total * width, rows.end(), 0);
    };
    zero(sums_, 4 * F), zero(force_, 3), zero(energy_, 1);
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

  // Calls work(part) for each part, on threads where there are several.
  template <class Work>
  void each(Work work) {
    const int count = int(parts_.size());
    limbeck::Pool::shared().run(count, count, [&](int t) { work(parts_[t]); });
  }

  // Adds the time of its life to a phase, where that is asked for.
  class Timer {
   public:
    Timer(bool on, Part &part, int phase) : seconds_(on ? &part.seconds[phase] : nullptr) {
      if (on) began_ = std::chrono::steady_clock::now();
    }
    ~Timer() {
      if (seconds_)
        *seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
    }

   private:
    double *seconds_;
    std::chrono::steady_clock::time_point began_;
  };

  // Calls work(first, count) for the blocks of atoms [begin, end).
  template <class Work>
  static void over_blocks(int begin, int end, Work work) {
    for (int i = begin; i < end; i += kBlock) work(i, std::min(kBlock, end - i));
  }

  // passes

  void geometry(Part &part) {
    part.seconds.fill(0);
    const Timer timer(profile_, part, kGeometry);
    const Model &model = w_->model;
    const int Z = w_->Z, F = w_->F;
    const double cutoff2 = model.hp.cutoff * model.hp.cutoff;
    part.shortest.assign(std::size_t(Z) * Z, G(std::numeric_limits<double>::infinity()));
    part.closest = std::numeric_limits<double>::infinity();
    std::fill_n(part.virial, 9, G(0));
    const std::size_t last_row = &part == &parts_.back() ? total_ : part.end;
    std::fill(force_.begin() + 3 * std::size_t(part.begin), force_.begin() + 3 * last_row, G(0));
    for (int i = part.begin; i < part.end; ++i) {
      energy_[i] = G(model.references[species_[i]]);
      const T *from = &w_->embedding[std::size_t(species_[i]) * F];
      T *to = &sums_[std::size_t(i) * 4 * F];
      for (int f0 = 0; f0 < F; f0 += S) {
        std::copy_n(from + f0, S, to + 4 * f0);
        std::fill_n(to + 4 * f0 + S, 3 * S, T(0));
      }
    }
    std::size_t at = part.pairs;
    for (int i = part.begin; i < part.end; ++i) {
      first_active_[i] = int(at);
      for (int e = start_[i]; e < start_[i + 1]; ++e) {
        if (e == middle_[i]) middle_active_[i] = int(at);
        const int j = atom_of(row_[e]);
        G d[3];
        vector(i, j, image_[e], d);
        const G r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
        if (!(r2 < G(cutoff2))) continue;
        G &shortest = part.shortest[std::size_t(species_[i]) * Z + species_[j]];  // squared until the end
        if (r2 < shortest) shortest = r2;
        active_[at] = std::uint16_t(e - start_[i]);
        if (double(r2) < model.longest_zbl * model.longest_zbl) repel(part, i, e, d, r2);
        ++at;
      }
      if (middle_[i] == start_[i + 1]) middle_active_[i] = int(at);
    }
    part.active = at;
    for (G &r : part.shortest) {
      using std::sqrt;
      r = G(sqrt(double(r)));
      part.closest = std::min(part.closest, double(r));
    }
  }

  // From atom i to an image of atom j, Angstrom.
  void vector(int i, int j, int image, G *d) const {
    const G *xi = positions_ + 3 * std::size_t(order_.empty() ? i : order_[i]);
    const G *xj = positions_ + 3 * std::size_t(order_.empty() ? j : order_[j]);
    const G *shift = &offset_[3 * std::size_t(image)];
    for (int c = 0; c < 3; ++c) d[c] = xj[c] - xi[c] + shift[c];
  }

  int atom_of(int row) const { return row < total_ ? row : foreign_[row - total_]; }

  // Ziegler, Biersack, Littmark (1985) between close atoms, switched off between half the radius and the
  // radius by 1 - 10 x^3 + 15 x^4 - 6 x^5. A one-way pair stands twice, so it counts half.
  void repel(Part &part, int i, int e, const G *d, const G &r2) {
    using std::exp;
    using std::sqrt;
    const Model &model = w_->model;
    const int a = species_[i], b = species_[atom_of(row_[e])];
    const G r = sqrt(r2);
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
    const G half_energy = energy * on * G(0.5);
    energy_[i] += half_energy;
    if (both) energy_[row_[e]] += half_energy;
    const G along = (force * on + energy * don) * G(both ? 1.0 : 0.5) / r;
    const G g[3] = {along * d[0], along * d[1], along * d[2]};
    push(part, i, row_[e], g, d);
  }

  // dE/d(vector) = g of a pair into forces and virial.
  void push(Part &part, int i, int row, const G *g, const G *d) {
    G *fi = &force_[3 * std::size_t(i)], *fj = &force_[3 * std::size_t(row)];
    for (int c = 0; c < 3; ++c) fi[c] += g[c], fj[c] -= g[c];
    for (int a = 0; a < 3; ++a)
      for (int b = 0; b < 3; ++b) part.virial[3 * a + b] += g[a] * d[b];
    if (out_->want_atom_virial)
      for (int a = 0; a < 3; ++a)
        for (int b = 0; b < 3; ++b) {
          const G x = G(0.5) * g[a] * d[b];
          atom_virial_[9 * std::size_t(i) + 3 * a + b] += x;
          atom_virial_[9 * std::size_t(row) + 3 * a + b] += x;
        }
  }

  // All pairs whose centre is one of the atoms [i0, i0 + n), in batches, slice by slice.
  template <int NP, bool BACK>
  void over_pairs(int l, Part &part, int i0, int n) {
    Scratch<T> &k = part.scratch;
    const auto &layer = w_->layers[l];
    const int F = w_->F, K = w_->K, wide = NP * S;
    const std::size_t end = last_of(part, i0 + n - 1);
    Run<T> run{};
    run.row = k.row.data(), run.atom = k.atom.data(), run.source = k.source.data(),
    run.back_row = k.back_row.data();
    run.unit = k.unit.data(), run.filter = k.filter.data(), run.slope = k.dfilter.data();
    run.along = k.along.data();
    run.sources_width = NP == 2 ? 2 * F : 6 * F, run.sums_width = 4 * F, run.back_width = 5 * F;
    int first_centre = i0;
    for (std::size_t base = first_active_[i0]; base < end; base += kBatch) {
      const int count = int(std::min<std::size_t>(end - base, kBatch));
      {
        const Timer timer(profile_, part, kFilters);
        prepare<NP, BACK>(part, first_centre, base, count, k);
        radial_basis<BACK>(*w_, count, k);
      }
      int centre = first_centre;
      for (int slice = 0; slice < F / S; ++slice) {
        const T *weights = &layer.filter[std::size_t(slice) * K * wide];
        {
          const Timer timer(profile_, part, kFilters);
          gemm<T, false>(count, wide, K, k.basis.data(), 1, kBatch, weights, wide, k.filter.data(), wide);
          if (BACK)
            gemm<T, false>(count, wide, K, k.slope.data(), 1, kBatch, weights, wide, k.dfilter.data(), wide);
        }
        const Timer timer(profile_, part, BACK ? kAdjoints : kMessages);
        run.sources = NP == 2 ? &w_->first_source[2 * S * slice] : &source_[l][6 * S * slice];
        run.sums = &sums_[4 * S * slice];
        if (BACK && NP == 3) run.back = &back_[5 * S * slice];
        centre = first_centre;
        for (int p = 0; p < count;) {
          while (last_of(part, centre) <= base + p) ++centre;
          run.centre = centre, run.centre_source = NP == 2 ? species_[centre] : centre;
          if (BACK && NP == 3) run.centre_back = back_row_[centre];
          const int middle = within(middle_active_[centre], base, count);
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

  // Place in a batch of what is the at-th of all pairs.
  static int within(std::size_t at, std::size_t base, int count) {
    return at <= base ? 0 : int(std::min<std::size_t>(at - base, count));
  }

  std::size_t last_of(const Part &part, int i) const {
    return i + 1 == part.end ? part.active : std::size_t(first_active_[i + 1]);
  }

  // What the batch's pairs refer to, and their vectors: kept for all pairs they would cost 16 bytes each.
  template <int NP, bool BACK>
  void prepare(const Part &part, int centre, std::size_t base, int count, Scratch<T> &k) {
    for (int p = 0; p < count; ++p) {
      while (last_of(part, centre) <= base + p) ++centre;
      const int e = start_[centre] + active_[base + p], row = row_[e], atom = atom_of(row);
      k.row[p] = row, k.atom[p] = atom, k.source[p] = NP == 2 ? species_[atom] : atom;
      if (BACK && NP == 3) k.back_row[p] = back_row_[row];
      k.core[p] = T(w_->model.hp.core_of(species_[centre], species_[atom]));
      G d[3];
      vector(centre, atom, image_[e], d);
      for (int c = 0; c < 3; ++c) k.vector[3 * p + c] = T(d[c]);
    }
    const T *d = k.vector.data();
    LIMBECK_SIMD
    for (int p = 0; p < count; ++p) {
      const T x = d[3 * p], y = d[3 * p + 1], z = d[3 * p + 2];
      const T r = root(x * x + y * y + z * z), inverse = T(1) / r;
      k.distance[p] = r;
      k.unit[3 * p] = x * inverse, k.unit[3 * p + 1] = y * inverse, k.unit[3 * p + 2] = z * inverse;
    }
  }

  // Forces and virial of a batch of pairs from their adjoints.
  void pull(Part &part, int i0, std::size_t base, int count, Scratch<T> &k) {
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
      const T bu = sum[1] * u[0] + sum[2] * u[1] + sum[3] * u[2], inverse = T(1) / k.distance[p];
      G g[3], d[3];
      for (int c = 0; c < 3; ++c) {
        g[c] = G(sum[0] * u[c] + (sum[1 + c] - bu * u[c]) * inverse);
        d[c] = G(vector[c]);
      }
      push(part, centre, k.row[p], g, d);
    }
  }

  template <bool BACK>
  void pairs(int l, Part &part, int i0, int n) {
    if (l == 0)
      over_pairs<2, BACK>(l, part, i0, n);
    else
      over_pairs<3, BACK>(l, part, i0, n);
  }

  void forward(int l, Part &part) {
    over_blocks(part.begin, part.early, [&](int i0, int n) {
      pairs<false>(l, part, i0, n);
      update(l, part, i0, n);
    });
    over_blocks(part.early, part.end, [&](int i0, int n) { pairs<false>(l, part, i0, n); });
  }
  void forward_late(int l, Part &part) {
    {
      const Timer timer(profile_, part, kUpdates);
      gather(part, sums_, 4 * w_->F);
      if (l + 1 == w_->L) gather(part, energy_, 1);
    }
    over_blocks(part.early, part.end, [&](int i0, int n) { update(l, part, i0, n); });
  }

  void backward(int l, Part &part) {
    const int early = l == 0 ? part.end : exchange_ ? part.begin : part.early;
    over_blocks(part.begin, early, [&](int i0, int n) {
      pairs<true>(l, part, i0, n);
      if (l > 0) update_back(l - 1, part, i0, n);
    });
    over_blocks(early, part.end, [&](int i0, int n) { pairs<true>(l, part, i0, n); });
  }
  void backward_late(int l, Part &part) {
    if (!exchange_) gather_back(part);
    const int early = exchange_ ? part.begin : part.early;
    over_blocks(early, part.end, [&](int i0, int n) { update_back(l - 1, part, i0, n); });
  }

  // Adds the foreign rows that belong to this part and leaves them at zero.
  template <class A>
  void gather(const Part &part, A &rows, int width) {
    for (const auto &[to, from] : part.incoming) add_row(rows, to, from, width);
  }
  void gather_back(Part &part) {
    const Timer timer(profile_, part, kUpdateAdjoints);
    for (const auto &[to, from] : part.incoming) add_row(back_, back_row_[to], back_row_[from], 5 * w_->F);
  }
  template <class A>
  static void add_row(A &rows, int to, int from, int width) {
    auto *x = rows.data() + std::size_t(to) * width, *y = rows.data() + std::size_t(from) * width;
    LIMBECK_SIMD
    for (int f = 0; f < width; ++f) x[f] += y[f], y[f] = 0;
  }

  // From slices of `blocks` quantities to one quantity after the other, or back: block `from` of `row` is
  // block `to` of `plain`.
  template <bool OUT>
  void copy_block(T *row, int blocks, int block, T *plain) const {
    for (int f0 = 0; f0 < w_->F; f0 += S) {
      T *x = row + f0 * blocks + block * S, *y = plain + f0;
      LIMBECK_SIMD
      for (int e = 0; e < S; ++e) {
        if (OUT)
          x[e] = y[e];
        else
          y[e] = x[e];
      }
    }
  }

  void update(int l, Part &part, int i0, int n) {
    const Timer timer(profile_, part, kUpdates);
    if (l + 1 == w_->L)
      last_update(part, i0, n);
    else
      inner_update(l, part, i0, n);
  }

  void inner_update(int l, Part &part, int i0, int n) {
    Scratch<T> &k = part.scratch;
    const int F = w_->F, H = w_->H;
    const auto &layer = w_->layers[l], &next = w_->layers[l + 1];
    T *sums = &sums_[std::size_t(i0) * 4 * F], *source = &source_[l + 1][std::size_t(i0) * 6 * F];
    T *v = &before_[l][std::size_t(i0) * 3 * F];
    for (int i = 0; i < n; ++i) {
      copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 0, &k.x[std::size_t(i) * 2 * F]);
      for (int c = 0; c < 3; ++c)
        copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 1 + c, v + (std::size_t(i) * 3 + c) * F);
    }
    update_inner(*w_, layer, n, v, &gate_[l][std::size_t(i0) * H], k);
    update_outer<T>(layer, F, H, n, k);
    for (int i = 0; i < n; ++i) {
      const T *a = &k.a[std::size_t(i) * 3 * F], *q = &k.q[std::size_t(i) * F];
      const T *m = &k.mixed[std::size_t(i) * 6 * F], *vi = v + std::size_t(i) * 3 * F;
      T *h = &k.h[std::size_t(i) * F];
      for (int f0 = 0; f0 < F; f0 += S) {
        T *x = sums + std::size_t(i) * 4 * F + 4 * f0, *y = source + std::size_t(i) * 6 * F + 6 * f0 + 3 * S;
        LIMBECK_SIMD
        for (int e = 0; e < S; ++e) {
          const int f = f0 + e;
          x[e] += a[f] + a[F + f] * q[f];
          h[f] = x[e];
          for (int c = 0; c < 3; ++c)
            x[(1 + c) * S + e] = y[c * S + e] = vi[c * F + f] + a[2 * F + f] * m[2 * c * F + f];
        }
      }
    }
    gemm<T, false>(n, 3 * F, F, k.h.data(), F, 1, next.phi.data(), 3 * F, k.phi.data(), 3 * F);
    for (int i = 0; i < n; ++i)
      for (int f0 = 0; f0 < F; f0 += S)
        for (int block = 0; block < 3; ++block) {
          T *y = source + std::size_t(i) * 6 * F + 6 * f0 + block * S;
          const T *x = &k.phi[(std::size_t(i) * 3 + block) * F + f0], *bias = &next.phi_bias[block * F + f0];
          LIMBECK_SIMD
          for (int e = 0; e < S; ++e) y[e] = x[e] + bias[e];
        }
  }

  // The last update, the readout and the way back through both, a block at a time: nothing is kept.
  void last_update(Part &part, int i0, int n) {
    Scratch<T> &k = part.scratch;
    const int F = w_->F, H = w_->H, R = w_->R;
    const auto &layer = w_->layers[w_->L - 1];
    const T scale = T(w_->model.hp.energy_scale);
    T *sums = &sums_[std::size_t(i0) * 4 * F];
    for (int i = 0; i < n; ++i) {
      copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 0, &k.x[std::size_t(i) * 2 * F]);
      for (int c = 0; c < 3; ++c)
        copy_block<false>(sums + std::size_t(i) * 4 * F, 4, 1 + c, &k.v[(std::size_t(i) * 3 + c) * F]);
    }
    update_inner(*w_, layer, n, k.v.data(), k.t.data(), k);
    update_outer<T>(layer, F, H, n, k);
    for (int i = 0; i < n; ++i) {
      const T *a = &k.a[std::size_t(i) * 2 * F], *q = &k.q[std::size_t(i) * F],
              *x = &k.x[std::size_t(i) * 2 * F];
      LIMBECK_SIMD
      for (int f = 0; f < F; ++f) k.h[std::size_t(i) * F + f] = x[f] + a[f] + a[F + f] * q[f];
    }
    gemm<T, false>(n, R, F, k.h.data(), F, 1, w_->read1.data(), R, k.rt.data(), R);
    for (int i = 0; i < n; ++i) {
      T *y = &k.rt[std::size_t(i) * R];
      G sum(w_->read2_bias);
      LIMBECK_SIMD
      for (int f = 0; f < R; ++f) {
        const T x = y[f] + w_->read1_bias[f], g = sigmoid(x);
        sum += G(x * g * w_->read2[f]);
        y[f] = scale * w_->read2[f] * (g + x * g * (T(1) - g));
      }
      energy_[i0 + i] += sum * G(w_->model.hp.energy_scale);
    }
    gemm<T, false>(n, F, R, k.rt.data(), R, 1, w_->read1_t.data(), F, k.h.data(), F);
    update_adjoint<2>(*w_, layer, n, k.t.data(), k);
    put_sums(sums, n, k);
  }

  // k.h and k.v into rows of sums.
  void put_sums(T *sums, int n, Scratch<T> &k) const {
    const int F = w_->F;
    for (int i = 0; i < n; ++i) {
      copy_block<true>(sums + std::size_t(i) * 4 * F, 4, 0, &k.h[std::size_t(i) * F]);
      for (int c = 0; c < 3; ++c)
        copy_block<true>(sums + std::size_t(i) * 4 * F, 4, 1 + c, &k.v[(std::size_t(i) * 3 + c) * F]);
    }
  }

  // From the adjoints of what layer l + 1 received and sent to the adjoints of what layer l received.
  void update_back(int l, Part &part, int i0, int n) {
    const Timer timer(profile_, part, kUpdateAdjoints);
    Scratch<T> &k = part.scratch;
    const int F = w_->F, H = w_->H;
    const auto &layer = w_->layers[l], &next = w_->layers[l + 1];
    T *sums = &sums_[std::size_t(i0) * 4 * F];
    const T *gate = &gate_[l][std::size_t(i0) * H];
    for (int i = 0; i < n; ++i) {
      T *back = &back_[std::size_t(back_row_[i0 + i]) * 5 * F];
      T *h = &k.h[std::size_t(i) * F], *v = &k.v[std::size_t(i) * 3 * F],
        *phi = &k.phi[std::size_t(i) * 3 * F];
      for (int f0 = 0; f0 < F; f0 += S) {
        const T *b = back + 5 * f0, *s = &source_[l + 1][std::size_t(i0 + i) * 6 * F + 6 * f0];
        const T *x = sums + std::size_t(i) * 4 * F + 4 * f0;
        LIMBECK_SIMD
        for (int e = 0; e < S; ++e) {
          const int f = f0 + e;
          T sum(0);
          for (int c = 0; c < 3; ++c) {
            const T carried = b[(2 + c) * S + e];
            sum += carried * s[(3 + c) * S + e];
            v[c * F + f] = x[(1 + c) * S + e] + s[2 * S + e] * carried;
          }
          phi[f] = b[e], phi[F + f] = b[S + e], phi[2 * F + f] = sum;
          h[f] = x[e];
        }
      }
      std::fill_n(back, 5 * F, T(0));
    }
    gemm<T, true>(n, F, 3 * F, k.phi.data(), 3 * F, 1, next.phi_t.data(), F, k.h.data(), F);
    mix(*w_, layer, n, &before_[l][std::size_t(i0) * 3 * F], k);
    LIMBECK_SIMD
    for (int e = 0; e < n * H; ++e) k.s[e] = gate[e] * sigmoid(gate[e]);
    update_outer<T>(layer, F, H, n, k);
    update_adjoint<3>(*w_, layer, n, gate, k);
    put_sums(sums, n, k);
  }

  void gather_forces(Part &part) {
    const Timer timer(profile_, part, kForces);
    gather(part, force_, 3);
    if (out_->want_atom_virial) gather(part, atom_virial_, 9);
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
    if (profile_) {  // the mean over threads
      out.seconds.assign(kPhaseCount, 0);
      for (const Part &part : parts_)
        for (int k = 0; k < kPhaseCount; ++k) out.seconds[k] += part.seconds[k] / double(parts_.size());
    }
  }
};

}  // namespace LIMBECK_ISA
