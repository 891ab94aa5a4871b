// What a host program may get wrong in a Neighbourhood.
#pragma once

#include "evaluator.h"

namespace so3krates {

// Returns the length of the longest candidate list. Throws Error where the neighbourhood is not one of `elements`
// elements, with rows and atoms that are there.
int check_neighbourhood(const Neighbourhood& neighbourhood, int elements);

}  // namespace so3krates
