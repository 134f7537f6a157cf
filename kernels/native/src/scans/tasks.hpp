// How a scan of many spans is cut into tasks: a span of rows, or a piece of it, and some queries that ask about it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace oracle {

struct Pairs {
    const int64_t* query;  // [P]
    const int64_t* span;   // [P, 2], the rows that the query of each pair asks about; those of one query are disjoint
    int64_t count, batch;
};

struct Task {
    int64_t start, stop;    // rows
    int64_t first, behind;  // which of `query`
};

// How far tasks are cut: queries of a task at most, tasks that a thread should find, and rows below which none is cut.
struct Cut {
    int64_t queries, tasks, rows;
};

class Tasks {
  public:
    std::vector<Task> all;
    std::vector<int64_t> query;      // of each share: a task and one of its queries
    std::vector<int64_t> of, share;  // [B + 1], and by query: its shares
    std::vector<int64_t> place;      // where a share has its sums: b for the first of query b, then B, B + 1, ...
    int64_t most = 0, extra = 0;     // queries of a task, and places beyond B

    Tasks(const Pairs& pairs, const Cut& cut) {
        const std::vector<int64_t> order = sorted(pairs);
        std::vector<Task> groups;
        for (int64_t first = 0, behind; first < pairs.count; first = behind) {
            const int64_t* span = pairs.span + 2 * order[first];
            for (behind = first; behind < pairs.count && behind - first < cut.queries; ++behind)
                if (!std::equal(span, span + 2, pairs.span + 2 * order[behind])) break;
            groups.push_back({span[0], span[1], first, behind});
        }
        double total = 0.0;
        for (const Task& group : groups) total += cost(group);
        for (const Task& group : groups) {
            const double wanted = cost(group) / std::max(total / cut.tasks, 1.0);
            const int64_t most_pieces = std::max<int64_t>((group.stop - group.start) / cut.rows, 1);
            add(pairs, order, group, std::min(static_cast<int64_t>(wanted) + 1, most_pieces));
        }
        list_shares(pairs.batch);
    }

  private:
    static std::vector<int64_t> sorted(const Pairs& pairs) {
        std::vector<int64_t> order(pairs.count);
        std::iota(order.begin(), order.end(), int64_t{0});
        std::stable_sort(order.begin(), order.end(), [&](int64_t one, int64_t two) {
            const int64_t *a = pairs.span + 2 * one, *b = pairs.span + 2 * two;
            return a[0] != b[0] ? a[0] < b[0] : a[1] < b[1];
        });
        return order;
    }

    // reading a row costs as much as the products of a few queries with it
    static double cost(const Task& task) {
        return static_cast<double>(task.stop - task.start) * static_cast<double>(task.behind - task.first + 4);
    }

    void add(const Pairs& pairs, const std::vector<int64_t>& order, const Task& group, int64_t pieces) {
        const int64_t rows = group.stop - group.start;
        most = std::max(most, group.behind - group.first);
        for (int64_t piece = 0; piece < pieces; ++piece) {
            const int64_t first = query.size();
            for (int64_t k = group.first; k < group.behind; ++k) query.push_back(pairs.query[order[k]]);
            all.push_back({group.start + rows * piece / pieces, group.start + rows * (piece + 1) / pieces, first,
                           static_cast<int64_t>(query.size())});
        }
    }

    void list_shares(int64_t batch) {
        const int64_t shares = query.size();
        of.assign(batch + 1, 0), share.resize(shares), place.resize(shares);
        for (const int64_t b : query) ++of[b + 1];
        std::partial_sum(of.begin(), of.end(), of.begin());
        std::vector<int64_t> next(of.begin(), of.end() - 1);
        for (int64_t k = 0; k < shares; ++k) {
            const int64_t b = query[k];
            place[k] = next[b] == of[b] ? b : batch + extra++;
            share[next[b]++] = k;
        }
    }
};

}  // namespace oracle
