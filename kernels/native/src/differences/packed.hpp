// Blocks of rows in float64 with one row a lane: squared distances without sums across lanes, whatever the width.
#pragma once
#include "rescore/distances.hpp"

namespace oracle {

// queries and vectors of rows whose distances are summed in registers at once
constexpr int kTileQueries = 4, kTileVectors = 2;
constexpr int64_t kTileRows = kTileVectors * kLanes;

// values of a row that are summed one after the other: their rounding errors stay those of a short sum
constexpr int64_t kPartSum = 256;

// packed[d * width + i] = value d of row start + i, for `count` rows; zeros from there to `width`.
template <class T>
void pack(const RowsView& rows, int64_t start, int64_t count, int64_t width, double* packed) {
    for (int64_t i = 0; i < count; ++i) {
        const T* row = row_of<T>(rows, start + i);
        int64_t d = 0;
        for (; d + kLanes <= rows.dim; d += kLanes) {
            const Wide values = wide(row + d);
            for (int lane = 0; lane < kLanes; ++lane) packed[(d + lane) * width + i] = values[lane];
        }
        const Wide values = d < rows.dim ? wide_some(row + d, rows.dim - d) : Wide{};
        for (int lane = 0; d + lane < rows.dim; ++lane) packed[(d + lane) * width + i] = values[lane];
    }
    for (int64_t i = count; i < width; ++i)
        for (int64_t d = 0; d < rows.dim; ++d) packed[d * width + i] = 0.0;
}

// A packed block: `width` rows, a multiple of kTileRows, of `dim` values.
struct Packed {
    const double* values;
    int64_t width, dim;
};

// total[q][v] += the squared differences of Q queries and kTileRows rows over the values [start, stop).
template <int Q>
ORACLE_INLINE void add_tile(const Packed& block, int64_t at, const double* const* x, const Wide* scale, int64_t start,
                            int64_t stop, Wide (*total)[kTileVectors]) {
    Wide part[Q][kTileVectors] = {};
    for (int64_t d = start; d < stop; ++d) {
        Wide row[kTileVectors];
        for (int v = 0; v < kTileVectors; ++v) row[v] = wide(block.values + d * block.width + at + v * kLanes);
        for (int q = 0; q < Q; ++q)
            for (int v = 0; v < kTileVectors; ++v) {
                const Wide difference = fused(scale[q], row[v], broadcast(x[q][d]));
                part[q][v] = fused(difference, difference, part[q][v]);
            }
    }
    for (int q = 0; q < Q; ++q)
        for (int v = 0; v < kTileVectors; ++v) total[q][v] += part[q][v];
}

// out[q * width + i] = |x_q - alpha_q r_i|^2 of Q queries and all rows of a block.
template <int Q>
void packed_distances(const Packed& block, const double* const* x, const double* alpha, double* out) {
    Wide scale[Q];
    for (int q = 0; q < Q; ++q) scale[q] = broadcast(-alpha[q]);
    for (int64_t at = 0; at < block.width; at += kTileRows) {
        Wide total[Q][kTileVectors] = {};
        for (int64_t start = 0; start < block.dim; start += kPartSum)
            add_tile<Q>(block, at, x, scale, start, std::min(start + kPartSum, block.dim), total);
        for (int q = 0; q < Q; ++q)
            for (int v = 0; v < kTileVectors; ++v) store(out + q * block.width + at + v * kLanes, total[q][v]);
    }
}

// sum[d] += sum_i weight_i (r_i[d] - centre[d]) over the rows of a block, V values at a time.
template <int V>
ORACLE_INLINE void add_values(const Packed& block, const double* weight, const double* centre, int64_t d, double* sum) {
    Wide total[V] = {};
    for (int64_t i = 0; i < block.width; i += kLanes) {
        const Wide some = wide(weight + i);
        for (int v = 0; v < V; ++v) {
            const Wide rest = wide(block.values + (d + v) * block.width + i) - broadcast(centre[d + v]);
            total[v] = fused(some, rest, total[v]);
        }
    }
    for (int v = 0; v < V; ++v) sum[d + v] += lane_sum(total[v]);
}

inline void add_block(const Packed& block, const double* weight, const double* centre, double* sum) {
    int64_t d = 0;
    for (; d + 4 <= block.dim; d += 4) add_values<4>(block, weight, centre, d, sum);
    for (; d < block.dim; ++d) add_values<1>(block, weight, centre, d, sum);
}

}  // namespace oracle
