// Lists of rows scored again in float64 and beyond, in pairs.cpp.
#pragma once
#include "rescore/lists.hpp"

namespace oracle {

// high + low = logits of lists, [P]; -inf where the row of a pair is -1.
void score_lists(const RowsView& rows, const QueriesView& queries, const Digits& digits, const ListsView& lists,
                 double* high, double* low);

// The states of lists in `out`, which holds those of no sample before.
void weigh_lists(const RowsView& rows, const QueriesView& queries, const Digits& digits, const ListsView& lists,
                 const StatesView& out);

}  // namespace oracle
