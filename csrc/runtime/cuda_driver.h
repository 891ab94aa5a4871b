// What must be known of NVIDIA's driver before a PJRT plugin is started on it. The driver's library is loaded when it
// is first asked for: nothing here needs CUDA to build or to be installed.
#pragma once

#include <string>

#include "error.h"
#include "library_function.h"

namespace so3krates::cuda {

// The driver's library, libcuda.so.1 or what SO3KRATES_CUDA_DRIVER names. Throws Error where there is none.
void* driver_library();
std::string newer_driver();  // how to get one, in words

// A function of it.
template <typename Pointer>
void load_driver(const char* name, Pointer& function) {
  load_function(driver_library(), name, function, "device cuda: NVIDIA's driver", newer_driver());
}

// Throws Error where `error` is not 0 (CUDA_SUCCESS): "device cuda: <operation> failed: <reason>".
void check(int error, const std::string& operation);

// CUDA release that the driver is made for, e.g. 12080.
int driver_version();

// Devices that this process may use (CUDA_VISIBLE_DEVICES counts). Throws Error where there is no driver or no device;
// the message says which, and what to do.
int device_count();

// Throws Error where device `index` is not there, or where the driver is too old for `plugin`, the path of a PJRT
// plugin in a folder named after its CUDA release, such as xla_cuda12.
void check_device(int index, const std::string& plugin);

// Gives this thread, where it has none, the context that XLA uses on device `index`: an MPI that is to read the memory
// there looks for it.
void make_current(int index);

// Whether another process of this machine can open that memory of a GPU as MPI does (legacy CUDA IPC): not where it was
// mapped by cuMemCreate, as XLA does from 0.10 on.
bool is_shareable(const void* data);

}  // namespace so3krates::cuda
