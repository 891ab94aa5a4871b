// Loops of the host over atoms or pairs, long enough to be shared between threads.
#pragma once

#include <cstddef>
#include <functional>

namespace so3krates {

constexpr double kListTime = 100.0, kPairTime = 1.5;  // ns, of an atom's candidates and of a pair

// How many pieces `count` atoms or pairs are worth, each of which takes so long: at least 1, at most `threads`.
int pieces_of(std::size_t count, double nanoseconds, int threads);

// Calls work(piece, begin, end) for each piece of [0, count), each in a thread of its own as far as there are any, and
// returns when all are done. Throws std::bad_alloc where one of them has; they must throw nothing else.
void for_pieces(int count, int pieces, const std::function<void(int, int, int)>& work);

}  // namespace so3krates
