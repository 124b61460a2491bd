#include "limbeck/neighbour_table.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace limbeck {

namespace {

constexpr float kAtomCost = 14;  // an atom's update costs about as much as this number of pairs

bool invert(const double *m, double *inverse) {
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

// Two zero bits behind each of the lowest 21 bits.
long long spread(long long x) {
  x = (x | x << 32) & 0x1f00000000ffff;
  x = (x | x << 16) & 0x1f0000ff0000ff;
  x = (x | x << 8) & 0x100f00f00f00f00f;
  x = (x | x << 4) & 0x10c30c30c30c30c3;
  return (x | x << 2) & 0x1249249249249249;
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
    return std::uint16_t(((sign * s[0] - low[0]) * count[1] + sign * s[1] - low[1]) * count[2] + sign * s[2] -
                         low[2]);
  }
};

}  // namespace

void NeighbourTable::build(const NeighbourList &list, double cutoff, int threads) {
  built_ = false;  // should this fail half way
  if (list.pairs > std::size_t(std::numeric_limits<int>::max() / 2))
    throw std::invalid_argument("more pairs than an index holds");
  owned = list.owned, total = list.total;
  cutoff_ = cutoff, reach_ = cutoff + list.skin;
  periodic_ = list.fully_periodic;
  made_at_.assign(list.positions, list.positions + 3 * std::size_t(total));
  std::copy_n(list.cell, 9, made_in_);
  sort_atoms(list);
  divide(list, threads);
  sort_pairs(list);
  assign_foreign_rows();
  built_ = true;
}

bool NeighbourTable::covers(const double *positions, const double *cell) const {
  if (!built_) return false;
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
  for (int i = 0; i < total; ++i) {
    const double *x = positions + 3 * std::size_t(i), *y = made_at_.data() + 3 * std::size_t(i);
    double d2 = 0;
    for (int c = 0; c < 3; ++c) {
      double d = x[c] - y[c];
      if (moved_cell) d -= y[0] * strain[c] + y[1] * strain[3 + c] + y[2] * strain[6 + c];
      d2 += d * d;
    }
    farthest = std::max(farthest, d2);
  }
  return (1 - stretch) * reach_ - 2 * std::sqrt(farthest) >= cutoff_;
}

void NeighbourTable::release() {
  built_ = false;
  Array<int>().swap(row);
  Array<std::uint16_t>().swap(image);
}

std::size_t NeighbourTable::bytes() const {
  std::size_t ints = row.capacity();
  for (const auto *a : {&species, &start, &middle, &foreign, &order_, &place_, &part_of_})
    ints += a->capacity();
  return ints * sizeof(int) + image.capacity() * sizeof(image[0]) + made_at_.capacity() * sizeof(double);
}

// Neighbours in space become neighbours in memory.
void NeighbourTable::sort_atoms(const NeighbourList &list) {
  order_.clear(), place_.clear();
  if (list.total != list.owned || list.owned < 256) return;
  double low[3], high[3];
  for (int c = 0; c < 3; ++c) low[c] = 1e300, high[c] = -1e300;
  std::vector<double> folded(3 * std::size_t(owned));
  double inverse[9];
  const bool fold = periodic_ && invert(list.cell, inverse);
  for (int i = 0; i < owned; ++i) {
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
  std::vector<std::pair<long long, int>> keys(owned);
  // Morton's order: ranges of atoms are compact in all three directions
  for (int i = 0; i < owned; ++i) {
    long long key = 0;
    for (int a = 0; a < 3; ++a) {
      const double at = (folded[3 * std::size_t(i) + a] - low[a]) / width;
      key |= spread(static_cast<long long>(std::min(at, 2097151.0))) << a;
    }
    keys[i] = {key, i};
  }
  std::sort(keys.begin(), keys.end());
  order_.resize(owned), place_.resize(owned);
  for (int k = 0; k < owned; ++k) order_[k] = keys[k].second, place_[keys[k].second] = k;
}

// Of a pair within a part the atom that comes first is the centre; pairs of two parts are divided evenly.
bool NeighbourTable::centred_on_first(int i, int j, int a, int b) const {
  return part_of_.empty() || part_of_[i] == part_of_[j] ? i < j : (a + b) % 2 == 0;
}

// Divides the atoms into parts of equal work, and moves those that receive from other parts to their end.
void NeighbourTable::divide(const NeighbourList &list, int threads) {
  const int count = std::max(1, std::min(threads, owned / 16));
  parts.resize(count);
  for (Part &part : parts) part.begin = part.early = part.end = owned;
  parts[0].begin = 0;
  part_of_.clear();
  if (count == 1) return;
  std::vector<float> cost(owned, kAtomCost);
  for (std::size_t p = 0; p < list.pairs; ++p)
    for (int a : {list.first[p], list.second[p]})
      if (a < owned) cost[place(a)] += 0.5f;
  double all = 0, sum = 0;
  for (float c : cost) all += c;
  part_of_.resize(owned);
  for (int i = 0; i < owned; ++i) {
    part_of_[i] = std::min(count - 1, int(sum / all * count));
    sum += cost[i];
  }
  for (int t = 0, at = 0; t < count; ++t) {
    parts[t].begin = at;
    while (at < owned && part_of_[at] == t) ++at;
    parts[t].early = parts[t].end = at;
  }
  if (has_copies()) {  // rows keep the host's order
    for (Part &part : parts) part.early = part.begin;
  } else {
    move_late(list);
  }
}

void NeighbourTable::move_late(const NeighbourList &list) {
  if (order_.empty()) {
    order_.resize(owned), place_.resize(owned);
    std::iota(order_.begin(), order_.end(), 0), std::iota(place_.begin(), place_.end(), 0);
  }
  std::vector<char> late(owned, 0);
  for (std::size_t p = 0; p < list.pairs; ++p) {
    const int a = list.first[p], b = list.second[p], i = place_[a], j = place_[b];
    if (part_of_[i] != part_of_[j]) late[centred_on_first(i, j, a, b) ? j : i] = 1;
  }
  std::vector<int> order;
  order.reserve(owned);
  for (Part &part : parts)
    for (char is : {0, 1}) {
      if (is) part.early = int(order.size());
      for (int i = part.begin; i < part.end; ++i)
        if (late[i] == is) order.push_back(order_[i]);
    }
  order_ = std::move(order);
  for (int k = 0; k < owned; ++k) place_[order_[k]] = k;
  // the same share everywhere: threads wait for each other before the late ones
  double share = 1;
  for (const Part &part : parts)
    if (part.end > part.begin)
      share = std::min(share, double(part.early - part.begin) / (part.end - part.begin));
  for (Part &part : parts) part.early = part.begin + int(share * (part.end - part.begin));
}

// The list by centre, two-way pairs before one-way pairs.
void NeighbourTable::sort_pairs(const NeighbourList &list) {
  species.resize(total);
  for (int i = 0; i < total; ++i) species[place(i)] = list.species[i];
  const ImageTable table(list, images);
  // i: the centre, j: its neighbour, sign: of the shift
  const auto pair = [&](std::size_t p, int &i, int &j, int &sign) {
    const int a = list.first[p], b = list.second[p];
    i = int(place(a)), j = int(place(b)), sign = 1;
    const bool both = i != j && j < owned;
    if (both && !centred_on_first(i, j, a, b)) std::swap(i, j), sign = -1;
    return both;
  };
  start.assign(owned + 1, 0), middle.assign(owned, 0);
  std::vector<int> two_way(owned, 0);
  int i, j, sign;
  for (std::size_t p = 0; p < list.pairs; ++p) {
    const bool both = pair(p, i, j, sign);
    start[i + 1] += i == j ? 2 : 1;
    two_way[i] += both;
  }
  if (*std::max_element(start.begin(), start.end()) > 65535)
    throw std::invalid_argument("an atom has more than 65535 neighbours");
  std::partial_sum(start.begin(), start.end(), start.begin());
  row.clear(), image.clear();
  row.resize(start[owned]), image.resize(start[owned]);
  std::vector<int> next(start.begin(), start.end() - 1), next_one_way(owned);
  for (int k = 0; k < owned; ++k) middle[k] = next_one_way[k] = start[k] + two_way[k];
  for (std::size_t p = 0; p < list.pairs; ++p) {
    const bool both = pair(p, i, j, sign);
    int &at = both ? next[i] : next_one_way[i];
    row[at] = j, image[at++] = table.index(p, sign);
    if (i == j) row[at] = j, image[at++] = table.index(p, -1);
  }
}

// Foreign rows, for what a part adds to atoms of another; the last part owns the copies as well.
void NeighbourTable::assign_foreign_rows() {
  const int count = int(parts.size());
  const auto owner = [&](int t, int j) {
    return j >= parts[t].begin && (j < parts[t].end || t + 1 == count);
  };
  foreign.clear();
  std::vector<int> seen(total, -1);
  for (int t = 0; t < count; ++t) {
    Part &part = parts[t];
    part.incoming.clear();
    part.pairs = start[part.begin];
    const std::size_t first_row = foreign.size();
    for (int e = start[part.begin]; e < start[part.end]; ++e) {
      const int j = row[e];
      if (owner(t, j)) continue;
      if (seen[j] < int(first_row)) seen[j] = int(foreign.size()), foreign.push_back(j);
      row[e] = total + seen[j];
    }
  }
  for (std::size_t k = 0; k < foreign.size(); ++k)
    for (int t = 0; t < count; ++t)
      if (owner(t, foreign[k])) {
        parts[t].incoming.emplace_back(foreign[k], total + int(k));
        break;
      }
}

int NeighbourTable::assign_adjoint_rows(bool exchanged, std::vector<int> &to) const {
  to.assign(rows(), -1);
  if (exchanged) {
    std::iota(to.begin(), to.end(), 0);
    return rows();
  }
  int count = 0;
  std::vector<int> unused;
  for (const Part &part : parts) {
    const auto touch = [&](int r) {
      if (to[r] >= 0) return;
      if (r < part.early && !unused.empty())
        to[r] = unused.back(), unused.pop_back();
      else
        to[r] = count++;
    };
    unused.clear();  // rows that another thread may be using
    over_blocks(part.begin, part.early, [&](int i0, int n) {
      for (int i = i0; i < i0 + n; ++i) touch(i);
      for (int e = start[i0]; e < start[i0 + n]; ++e) touch(row[e]);
      for (int i = i0; i < i0 + n; ++i) unused.push_back(to[i]);
    });
    for (int i = part.early; i < part.end; ++i) touch(i);
    for (int e = start[part.early]; e < start[part.end]; ++e) touch(row[e]);
  }
  return count;
}

}  // namespace limbeck
