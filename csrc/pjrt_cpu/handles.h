// What the opaque handles of the PJRT C API stand for in this plugin, and the passage from absl::Status to PJRT_Error.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "xla/future.h"
#include "xla/pjrt/c/pjrt_c_api.h"
#include "xla/pjrt/c/pjrt_c_api_ffi_extension.h"
#include "xla/pjrt/pjrt_client.h"
#include "xla/pjrt/pjrt_executable.h"

struct PJRT_Error {
  absl::Status status;
};

struct PJRT_Event {
  xla::Future<> future;
};

struct PJRT_Device {
  xla::PjRtDevice* device;
};

struct PJRT_Client {
  std::unique_ptr<xla::PjRtClient> client;
  std::vector<PJRT_Device> devices;
  std::vector<PJRT_Device*> device_pointers;
};

struct PJRT_Buffer {
  std::unique_ptr<xla::PjRtBuffer> buffer;
  PJRT_Client* client;
};

struct PJRT_LoadedExecutable {
  std::shared_ptr<xla::PjRtLoadedExecutable> executable;
  PJRT_Client* client;
};

struct PJRT_Executable {
  std::shared_ptr<xla::PjRtLoadedExecutable> executable;
};

struct PJRT_SerializedExecutable {
  std::string bytes;
};

struct PJRT_ExecuteContext {
  xla::ExecuteContext context;
};

namespace so3krates::pjrt_cpu {

inline PJRT_Error* to_error(absl::Status status) {
  return status.ok() ? nullptr : new PJRT_Error{std::move(status)};
}

inline PJRT_Event* to_event(xla::Future<> future) {
  return new PJRT_Event{std::move(future)};
}

// Fills the table's entries for one kind of handle.
void add_errors_and_events(PJRT_Api& api);
void add_client(PJRT_Api& api);
void add_buffers(PJRT_Api& api);
void add_executables(PJRT_Api& api);
void add_execute_context(PJRT_Api& api);

PJRT_FFI_Extension* ffi_extension();

}  // namespace so3krates::pjrt_cpu
