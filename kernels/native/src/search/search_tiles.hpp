// All rows of a span at the first level of a search: the largest upper logit of each tile, the most promising row of
// each query, and the rows that stay above a floor at every level.
#pragma once
#include "search/search_queries.hpp"

namespace oracle {

// A row that may matter to a query, its upper logit, and what its logit is estimated to be.
struct MatteringRow {
    int64_t query, row;
    float upper, estimate;
};

// What shares of the tiles find, in the order of the rows.
struct Visited {
    std::vector<MatteringRow> rows;
    std::vector<double> below;  // [lanes]: the upper weights of what is closed in open tiles, relative to the floors
};

class SearchTiles {
  public:
    SearchTiles(const SearchAsked& asked, const SearchQueries& queries);

    // Bounds every row. promising: the row of each query whose logit is the largest where residuals are orthogonal to
    // it, -1 where none counts, [lanes].
    void bound_all(int64_t* promising);

    // How many tiles reach the floor of each query, and what the others hold relative to it, [lanes] each.
    void close(const float* floors, int64_t* open, double* below) const;

    // Rows that reach the floors by all blocks that the queries are projected on; those of closed queries are infinite.
    std::vector<Visited> visit(const float* floors) const;

    // Keeps the rows that reach the floors by the block that the queries are projected on last, too.
    void narrow(std::vector<Visited>& visited, const float* floors) const;

  private:
    struct Pair {                      // two vectors of queries
        std::vector<float> factors;    // [stride][kPairLanes]
        bool adjacent;                 // whether their shared products are side by side
        std::vector<int32_t> columns;  // of these, [kPairLanes]
    };
    struct Values {  // of a tile, [kTile][kPairLanes]: -inf for what does not count
        float upper[kTile * kPairLanes], estimate[kTile * kPairLanes];
    };

    struct Left {  // queries that a row may still matter to, their estimated and upper logits
        int64_t row, count = 0, lane[kPairLanes] = {};
        float estimate[kPairLanes], upper[kPairLanes];

        explicit Left(int64_t number) : row(number) {}
        void add(int64_t which, float estimated, float bound) {
            lane[count] = which, estimate[count] = estimated, upper[count++] = bound;
        }
    };

    const SearchAsked& asked_;
    const SearchQueries& queries_;
    std::vector<Pair> pairs_;
    std::vector<float> largest_;  // [tiles, lanes]
    int64_t tiles_, threads_;

    const SearchLevel& first() const { return asked_.levels[0]; }
    void bound(int64_t tile, int64_t lane, std::vector<float>& room, Values& values) const;
    void share_products(const Pair& pair, int64_t row, FloatVector* products) const;
    void exclude(int64_t row, int64_t count, int64_t lane, Values& values) const;
    void look(int64_t tile, int64_t lane, const float* floors, std::vector<float>& room, Visited& found) const;
    void hand_on(Left& left, int64_t block, const float* floors, Visited& found) const;
    void refine(Left& left, int64_t block, const float* floors, Visited& found) const;
    void multiply(const Left& left, int64_t from, int64_t width, float* products) const;
};

}  // namespace oracle
