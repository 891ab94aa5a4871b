// Which PJRT plugin serves a device.
#pragma once

#include <string>
#include <vector>

#include "error.h"

namespace so3krates {

struct PluginChoice {
  std::string path;      // of the shared library
  int device_index = 0;  // among the devices of that plugin
  std::string platform;  // "cpu", "cuda", "rocm" or "oneapi"
};

// The platform of a device; empty for what is none.
std::string platform_of(const std::string& device);

// device: "cpu", or "cuda", "rocm" or "oneapi" with or without ":INDEX". plugin: path given by the user; empty: what
// the device's variable names (SO3KRATES_PJRT_CPU, _CUDA, _ROCM, _ONEAPI), else the one installed with this library.
// Throws Error for another device or when no plugin is there.
PluginChoice find_plugin(const std::string& device, const std::string& plugin = "");

// The potential of this name that was installed with this library: NAME or NAME.so3k of folder so3krates/potentials.
// Empty where there is none, and for what is more than a name.
std::string shipped_potential(const std::string& name);

// Where a file that is not there was looked for, to end a message with; empty where it is there.
std::string looked_for(const std::string& path);

// The command that adds a Python package to the environment which this library is part of.
std::string pip_install(const std::string& what);

// CUDA release of a plugin in a folder named after it: 12 for xla_cuda12; 0 where the path does not say.
int cuda_release_of(const std::string& plugin);

// Where the programs of `plugin`, the path of a PJRT plugin for CUDA, may find ptxas and NVIDIA's device library:
// beside it and beside this library as pip puts them, CUDA_HOME, CUDA_PATH, CONDA_PREFIX, /usr/local.
std::vector<std::string> cuda_folders(const std::string& plugin);
// The first of them that has both; empty where none has, and where XLA_FLAGS name one.
std::string cuda_folder(const std::string& plugin);

// Where NVRTC may lie, of CUDA releases up to `release`, the newest first: the one that SO3KRATES_NVRTC names, else
// those that pip installs with this library or with `plugin`, the path of a PJRT plugin, or that lie in
// LD_LIBRARY_PATH, else those of conda (CONDA_PREFIX), of CUDA_HOME, CUDA_PATH and /usr/local.
std::vector<std::string> nvrtc_paths(int release, const std::string& plugin = "");

}  // namespace so3krates
