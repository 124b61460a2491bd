// The neighbour list of one structure as the passes read it: atoms sorted in space and divided among threads,
// pairs by centre.
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

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "limbeck/aligned.hpp"
#include "limbeck/engine.hpp"

namespace limbeck {

constexpr int kBlock = 32;  // atoms handled together between messages

// Calls work(first, count) for the blocks of atoms [begin, end).
template <class Work>
void over_blocks(int begin, int end, Work work) {
  for (int i = begin; i < end; i += kBlock) work(i, std::min(kBlock, end - i));
}

// A thread's share: atoms [begin, end), of which those before `early` receive from no other part.
struct Part {
  int begin = 0, early = 0, end = 0;
  std::size_t pairs = 0;                      // its first list entry
  std::vector<std::pair<int, int>> incoming;  // (owned row, foreign row), to be added by this part
};

class NeighbourTable {
 public:
  std::vector<int> species;        // (total,) sorted
  std::vector<int> start, middle;  // (owned + 1), (owned): list entries of a centre, two-way first
  Array<int> row;                  // per list entry: the neighbour, or its foreign row
  Array<std::uint16_t> image;      // per list entry: which of `images`
  std::vector<std::array<int, 3>> images;
  std::vector<int> foreign;  // the atom behind a foreign row
  std::vector<Part> parts;
  int owned = 0, total = 0;

  // Throws std::invalid_argument where there are more pairs, neighbours or images than an index holds.
  void build(const NeighbourList &, double cutoff, int threads);
  // Whether every pair within the cutoff is still among those of build().
  bool covers(const double *positions, const double *cell) const;
  void release();
  bool built() const { return built_; }

  // Where each row's adjoint is added up, and how many such rows there are. For a host that exchanges rows
  // with other processes: row by row, as it expects them. Else rows are used again, block by block in the
  // order of the backward pass.
  int assign_adjoint_rows(bool exchanged, std::vector<int> &to) const;

  // The caller's number of an atom, and its place in the sorted order.
  std::size_t given(int k) const { return order_.empty() ? k : order_[k]; }
  std::size_t place(int atom) const { return order_.empty() ? atom : place_[atom]; }
  int atom_of(int r) const { return r < total ? r : foreign[r - total]; }
  int rows() const { return total + int(foreign.size()); }
  bool has_copies() const { return total > owned; }  // of other processes' atoms
  std::size_t bytes() const;

 private:
  void sort_atoms(const NeighbourList &);
  void divide(const NeighbourList &, int threads);
  void move_late(const NeighbourList &);
  bool centred_on_first(int i, int j, int a, int b) const;
  void sort_pairs(const NeighbourList &);
  void assign_foreign_rows();

  std::vector<int> order_, place_;  // sorted -> given, given -> sorted; empty where they are the same
  std::vector<int> part_of_;     // per atom, before late ones moved to the end of a part; empty for one part
  std::vector<double> made_at_;  // positions and cell of build()
  double made_in_[9] = {}, cutoff_ = 0, reach_ = 0;
  bool built_ = false, periodic_ = false;
};

}  // namespace limbeck
