#include "neighbourhood.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "error.h"

namespace so3krates {
namespace {

static_assert(sizeof(int) == 4, "a Neighbourhood's int is a bundle's int32");

void need(bool condition, const std::string& message) {
  if (!condition) throw Error("the neighbourhood is not valid: " + message);
}

// All of values[0, count) lie in [least, limit).
void check_indices(const int* values, int count, int limit, const char* what, int least = 0) {
  if (values == nullptr && count > 0) need(false, std::string(what) + " is a null pointer");
  // One pass without branches, which compilers vectorise: lists are long.
  unsigned largest = 0;
  for (int i = 0; i < count; ++i) largest = std::max(largest, static_cast<unsigned>(values[i] - least));
  if (largest < static_cast<unsigned>(limit - least)) return;
  for (int i = 0; i < count; ++i)
    if (values[i] < least || values[i] >= limit)
      need(false, std::string(what) + " holds " + std::to_string(values[i]) + " at " + std::to_string(i) +
                      ", which is not within " + std::to_string(least) + " and " + std::to_string(limit - 1));
}

void check_peers(const Neighbourhood& n) {
  need(n.peer_count >= 0 && (n.peers != nullptr || n.peer_count == 0),
       std::to_string(n.peer_count) + " peers at " + (n.peers == nullptr ? "a null pointer" : "an address"));
  std::int64_t received = 0;
  for (const Peer* peer = n.peers; peer != n.peers + n.peer_count; ++peer) {
    const std::string name = "rank " + std::to_string(peer->rank);
    need(peer->rank >= 0, "a peer is " + name);
    need(peer->sent_count >= 0 && peer->received_count >= 0, name + " reads " + std::to_string(peer->sent_count) +
                                                                 " rows and gives " +
                                                                 std::to_string(peer->received_count));
    need(peer->sent_place >= 0 && peer->received_place >= 0, "the rows of " + name + " begin at " +
                                                                 std::to_string(peer->sent_place) + " and " +
                                                                 std::to_string(peer->received_place));
    check_indices(peer->sent, peer->sent_count, n.owned, "a peer's list of sent rows");
    received += peer->received_count;
  }
  need(received == n.rows - n.owned, "peers give " + std::to_string(received) + " rows, but " +
                                         std::to_string(n.rows - n.owned) + " belong to other ranks");
}

}  // namespace

int check_neighbourhood(const Neighbourhood& n, int elements) {
  need(
      n.owned >= 0 && n.rows >= n.owned && n.atoms >= 0,
      std::to_string(n.owned) + " owned of " + std::to_string(n.rows) + " rows, " + std::to_string(n.atoms) + " atoms");
  check_indices(n.row_of_atom, n.atoms, n.rows, "row_of_atom", -1);
  check_indices(n.atom_of_row, n.rows, n.atoms, "atom_of_row");
  check_indices(n.species, n.rows, elements, "species");
  check_indices(n.candidate_count, n.owned, INT32_MAX, "candidate_count");
  check_peers(n);
  need(n.candidates != nullptr || n.owned == 0, "candidates is a null pointer");
  const bool all_have_rows = std::find(n.row_of_atom, n.row_of_atom + n.atoms, -1) == n.row_of_atom + n.atoms;
  int longest = 0;
  for (int i = 0; i < n.owned; ++i) {
    check_indices(n.candidates[i], n.candidate_count[i], n.atoms, "a candidate list");
    for (int k = 0; k < n.candidate_count[i] && !all_have_rows; ++k)
      if (n.row_of_atom[n.candidates[i][k]] < 0) need(false, "a candidate list holds an atom without a row");
    longest = std::max(longest, n.candidate_count[i]);
  }
  return longest;
}

}  // namespace so3krates
