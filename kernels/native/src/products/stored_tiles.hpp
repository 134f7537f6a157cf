// Weighted sums of rows as they are stored for a tile of queries: where few have weight, panels of all do not pay.
#pragma once
#include "products/rows.hpp"

namespace oracle {

// Adds those of VECTORS vectors of coordinates, from d on. index: the rows, [count]. weights: [count][queries]. centre:
// to be taken off each row. sums: [queries][P].
template <class Real, class Stored, int VECTORS>
ORACLE_APART void weigh_stored_vectors(const Stored* rows, int64_t d, int64_t dim, const Real* centre,
                                       const int32_t* index, const Real* weights, int64_t count, Real* sums) {
    constexpr int64_t W = Tile<Real>::lanes, P = Tile<Real>::panel;
    constexpr int QUERIES = Tile<Real>::queries;
    Vector<Real> total[QUERIES][VECTORS];
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) total[q][v] = load(sums + q * P + v * W);
    for (int64_t i = 0; i < count; ++i) {
        Vector<Real> x[VECTORS];
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) x[v] = vector_from(rows + index[i] * dim, d + v * W, dim, centre);
#pragma GCC unroll 8
        for (int q = 0; q < QUERIES; ++q) {
            const Vector<Real> weight = broadcast(weights[i * QUERIES + q]);
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; ++v) total[q][v] += weight * x[v];
        }
    }
#pragma GCC unroll 8
    for (int q = 0; q < QUERIES; ++q)
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; ++v) store(sums + q * P + v * W, total[q][v]);
}

// The same over `left` vectors.
template <class Real, class Stored>
void weigh_stored_tile(const Stored* rows, int64_t d, int64_t left, const Shape<Real>& shape, const Real* centre,
                       const int32_t* index, const Real* weights, int64_t count, Real* sums) {
    if (left == 3)
        weigh_stored_vectors<Real, Stored, 3>(rows, d, shape.dim, centre, index, weights, count, sums);
    else if (left == 2)
        weigh_stored_vectors<Real, Stored, 2>(rows, d, shape.dim, centre, index, weights, count, sums);
    else
        weigh_stored_vectors<Real, Stored, 1>(rows, d, shape.dim, centre, index, weights, count, sums);
}

}  // namespace oracle
