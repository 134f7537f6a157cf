// A search by leading coordinates: the states of the rows that can matter to each query, and what all others hold.
#pragma once
#include "core/queries.hpp"
#include "rescore/states.hpp"

namespace oracle {

// A level of a screen, see kernels/screens/kinds/pca.py: `width` coordinates of each row, norms of what lies beyond
// them in all blocks but the first `skipped`, in what no block holds and altogether, half of the squared norm, and the
// log of the weight where rows have weights.
struct SearchLevel {
    const float* features;  // [N, stride]
    int64_t stride, width, skipped;

    // how many norms there are
    int64_t norms(int64_t blocks) const { return blocks + 2 - skipped; }
};

// What is asked, as kernels/native/search.py lays it out.
struct SearchAsked {
    const RowsView* rows;
    const Digits* digits;
    AskedQueries queries;
    int64_t start, stop;      // the span
    const int64_t* excluded;  // [B, ranges, 2]
    int64_t ranges, threads, most_tiles, most_rows;
    const float* basis;  // [coordinates, dim], rows beyond the last coordinate are zero
    int64_t coordinates;
    const int64_t* edges;       // where blocks begin, and where the last one ends
    int64_t blocks, projected;  // projected: of them, on whose directions queries are projected before rows are bounded
    const SearchLevel* levels;  // from the one that all rows are bounded by; the last one has coordinates of all blocks
    int64_t depth;
    // relative errors of upper logits, of a norm by coordinates, of products with whole rows, with norms up to
    // row_radius, and what float32 may hide of logs of weights
    double upper_error, coordinate_error, row_error, row_radius, weight_error;
    const SearchLevel* source_level;  // that the norms of sources are read from
    const int64_t* source;            // [B], -1 where unknown, or null
    const double *blur, *typical;     // [B]; [blocks + 2], norms of a typical row
    double deviations;                // of Gaussian noise that none exceeds
    const float* shared;              // [N, shared_stride], or null
    int64_t shared_stride;
    const int64_t* shared_column;  // [B]
    const double* shared_point;    // [B, dim]
    double shared_error;           // relative error of shared products
    // the mass that may be left out, at most; less where an answer is smaller than what a change of its mean does to it
    const double* mass;                   // [B]
    const double *direct, *gap, *change;  // [B], or null
    StatesView out;                       // states of no sample
    double* log_omitted;                  // [B]
    int64_t *survivors, *opened, *scored,
        *found;  // [B]; found: 1 for queries with a state, 0 for those that are pending

    // how many features stand behind the norms of a row
    int64_t tail() const { return rows->log_weights == nullptr ? 1 : 2; }
};

}  // namespace oracle
