// Small dense products C (+)= A B for row-major matrices that fit in cache.
//
// The micro-kernel keeps a tile of C in registers: MR rows by NV vectors. A is read by
// broadcast with arbitrary strides, so the same kernel serves A and A transposed; B must have
// contiguous rows. Widths that are no multiple of the vector are finished by a scalar loop.
#pragma once

#include <cstddef>
#include <cstring>
#include <type_traits>

namespace LIMBECK_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 12;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6;
#else
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 4;
#endif

template <class T>
struct Vector {
  typedef T type __attribute__((vector_size(kVectorBytes), aligned(sizeof(T)), may_alias));
  static constexpr int width = kVectorBytes / sizeof(T);
};

template <class T, int ROWS, int NV, bool ADD>
inline void gemm_tile(int depth, const T *a, std::ptrdiff_t row_stride, std::ptrdiff_t depth_stride,
                      const T *b, std::ptrdiff_t ldb, T *c, std::ptrdiff_t ldc) {
  using V = typename Vector<T>::type;
  constexpr int W = Vector<T>::width;
  V acc[ROWS][NV];
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < NV; ++v) {
      if (ADD)
        acc[i][v] = *reinterpret_cast<const V *>(c + i * ldc + v * W);
      else
        acc[i][v] = V{};
    }
  for (int k = 0; k < depth; ++k) {
    V row[NV];
    for (int v = 0; v < NV; ++v) row[v] = *reinterpret_cast<const V *>(b + k * ldb + v * W);
    const T *ak = a + k * depth_stride;
    for (int i = 0; i < ROWS; ++i) {
      const T x = ak[i * row_stride];
      for (int v = 0; v < NV; ++v) acc[i][v] += x * row[v];
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < NV; ++v) *reinterpret_cast<V *>(c + i * ldc + v * W) = acc[i][v];
}

template <class T, int NV, bool ADD>
inline void gemm_rows(int rows, int depth, const T *a, std::ptrdiff_t rs, std::ptrdiff_t ds, const T *b,
                      std::ptrdiff_t ldb, T *c, std::ptrdiff_t ldc) {
  constexpr int kRows = NV == 3 ? kTileRows * 2 / 3 : kTileRows;
  int i = 0;
  for (; i + kRows <= rows; i += kRows)
    gemm_tile<T, kRows, NV, ADD>(depth, a + i * rs, rs, ds, b, ldb, c + i * ldc, ldc);
  for (; i + 4 <= rows; i += 4) gemm_tile<T, 4, NV, ADD>(depth, a + i * rs, rs, ds, b, ldb, c + i * ldc, ldc);
  for (; i + 2 <= rows; i += 2) gemm_tile<T, 2, NV, ADD>(depth, a + i * rs, rs, ds, b, ldb, c + i * ldc, ldc);
  for (; i < rows; ++i) gemm_tile<T, 1, NV, ADD>(depth, a + i * rs, rs, ds, b, ldb, c + i * ldc, ldc);
}

// C (rows, cols) = or += A (rows, depth) B (depth, cols); a(i, k) = a[i * rs + k * ds].
template <class T, bool ADD>
inline void gemm(int rows, int cols, int depth, const T *a, std::ptrdiff_t rs, std::ptrdiff_t ds, const T *b,
                 std::ptrdiff_t ldb, T *c, std::ptrdiff_t ldc) {
  int j = 0;
  if constexpr (std::is_arithmetic<T>::value) {
    constexpr int W = Vector<T>::width;
    for (; j + 3 * W <= cols && (cols - j) % (2 * W) == W; j += 3 * W)
      gemm_rows<T, 3, ADD>(rows, depth, a, rs, ds, b + j, ldb, c + j, ldc);
    for (; j + 2 * W <= cols; j += 2 * W)
      gemm_rows<T, 2, ADD>(rows, depth, a, rs, ds, b + j, ldb, c + j, ldc);
    for (; j + W <= cols; j += W) gemm_rows<T, 1, ADD>(rows, depth, a, rs, ds, b + j, ldb, c + j, ldc);
  }
  for (; j < cols; ++j)
    for (int i = 0; i < rows; ++i) {
      T sum = ADD ? c[i * ldc + j] : T(0);
      for (int k = 0; k < depth; ++k) sum += a[i * rs + k * ds] * b[k * ldb + j];
      c[i * ldc + j] = sum;
    }
}

}  // namespace LIMBECK_ISA
