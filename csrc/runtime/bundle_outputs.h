// The outputs that a bundle declares by name, and what it says of its training to those who run it.
#pragma once

#include "bundle.h"
#include "bundle_json.h"

namespace so3krates {

// Of a bundle whose buffers and schedules have been read; versions before 4 have the outputs that all potentials have.
// Throws Error, without the file's name.
void read_outputs(const json::Json& manifest, Bundle& bundle);

// The limits of the training data, and the outputs that they make possible. Throws as above.
void read_guard(const json::Json& manifest, Bundle& bundle);

// What a host has to add beside the potential. Throws as above.
void read_baselines(const json::Json& manifest, Bundle& bundle);

}  // namespace so3krates
